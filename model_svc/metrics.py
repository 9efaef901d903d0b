"""Metrics of the model service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5, 1, 4)


class ModelMetrics:
    """Counters of one model process; implements `engine.Meter`."""

    def __init__(self, registry: CollectorRegistry, kv_slots: int) -> None:
        self._step_seconds = Histogram(
            "triptych_model_step_seconds",
            "Time of an engine step, from its plan to its tokens",
            registry=registry,
            buckets=_STEP_BUCKETS_S,
        )
        self._tokens = Counter(
            "triptych_model_tokens", "Tokens computed", ["kind"], registry=registry
        )
        self._preempted = Counter(
            "triptych_model_preemptions",
            "Sequences put back for want of KV slots",
            registry=registry,
        )
        self._sequences = Gauge(
            "triptych_model_sequences", "Sequences in the engine", ["state"], registry=registry
        )
        self._used = Gauge(
            "triptych_model_kv_slots_used", "KV slots held by live requests", registry=registry
        )
        total = Gauge("triptych_model_kv_slots_total", "KV slots there are", registry=registry)
        total.set(kv_slots)
        self.left_out_rows = Counter(
            "triptych_model_rows_left_out",
            "Rows left out of a token ring for want of room, to be asked for again",
            registry=registry,
        )
        self.replays = Counter(
            "triptych_model_replays", "Requests to send rows again", registry=registry
        )
        self.resent_rows = Counter(
            "triptych_model_resent_rows", "Rows sent again because asked for", registry=registry
        )
        self.resumed_requests = Counter(
            "triptych_model_resumed_requests",
            "Requests that came with an earlier attempt behind them",
            registry=registry,
        )

    def step(self, seconds: float, decodes: int, prompt_tokens: int, preempted: int) -> None:
        """Count a step."""
        self._step_seconds.observe(seconds)
        self._tokens.labels("decode").inc(decodes)
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._preempted.inc(preempted)

    def load(self, running: int, waiting: int, used_slots: int) -> None:
        """Note the load."""
        self._sequences.labels("running").set(running)
        self._sequences.labels("waiting").set(waiting)
        self._used.set(used_slots)
