"""The pipeline benchmark's arithmetic, with a deployment that is all numbers."""

import pytest

from bench import pipeline
from bench.deployment import Steps
from triptych.load.measures import RequestTimes, summarise


def test_overhead_is_what_the_client_waits_for_beyond_the_engine(monkeypatch):
    requests = pipeline.FEWEST
    prefill = Steps(requests, requests * 0.010)
    decodes = requests * (pipeline.OUTPUT_TOKENS - 1)
    whole = Steps(requests + decodes, requests * 0.010 + decodes * 0.002)

    def run(_deployment, *, max_tokens, **_):
        if max_tokens == 1:
            return summarise([RequestTimes(1, 1, 0.013, 0.013)] * requests, 1.0, 1), prefill
        total_s = 0.013 + (max_tokens - 1) * 0.0025
        times = [RequestTimes(max_tokens, max_tokens, 0.013, total_s)] * requests
        return summarise(times, 1.0, 1), whole

    monkeypatch.setattr(pipeline, "_run", run)

    overhead = pipeline._overhead(None)

    assert overhead.ttft_ms == pytest.approx(3.0)
    assert overhead.tpot_ms == pytest.approx(0.5)


def test_a_load_tells_the_steps_from_the_time_between_them(monkeypatch):
    figures = summarise([RequestTimes(128, 128, 0.1, 2.0)], 2.0, 8)
    monkeypatch.setattr(pipeline, "_run", lambda *_, **__: (figures, Steps(100, 1.5)))

    load = pipeline._load(None, 8, 32)

    assert load.step_ms == pytest.approx(15.0)
    assert load.between_steps_ms == pytest.approx(5.0)
