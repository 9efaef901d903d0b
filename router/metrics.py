"""The router's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chassis.serving.introspection import ListLinks
from protos import service_pb2

_FIRST_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_PER_TOKEN_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_WHOLE_S = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_PREFIX = "triptych_router"


class RouterMetrics:
    """Counts of requests."""

    def __init__(
        self,
        registry: CollectorRegistry,
        queued: Callable[[], int],
        running: Callable[[], int],
        rate: Callable[[], float] = float,
    ) -> None:
        """Register all; `queued`, `running` and `rate` are asked at each scrape."""
        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests ended, by outcome.", ["outcome"], registry=registry
        )
        self.prompt_tokens = Counter(
            f"{_PREFIX}_prompt_tokens", "Prompt tokens of requests run.", registry=registry
        )
        self.output_tokens = Counter(
            f"{_PREFIX}_output_tokens", "Output tokens of requests run.", registry=registry
        )
        self.first_token = Histogram(
            f"{_PREFIX}_time_to_first_token_seconds",
            "From a request's arrival to its first output.",
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.per_token = Histogram(
            f"{_PREFIX}_time_per_output_token_seconds",
            "Between output tokens after the first, the mean of a request.",
            buckets=_PER_TOKEN_S,
            registry=registry,
        )
        self.whole = Histogram(
            f"{_PREFIX}_request_duration_seconds",
            "From a request's arrival to its end.",
            buckets=_WHOLE_S,
            registry=registry,
        )
        _add_gauges(registry, queued, running, rate)


def _add_gauges(
    registry: CollectorRegistry,
    queued: Callable[[], int],
    running: Callable[[], int],
    rate: Callable[[], float],
) -> None:
    Gauge(
        f"{_PREFIX}_queued_requests", "Requests that wait to be admitted.", registry=registry
    ).set_function(queued)
    Gauge(
        f"{_PREFIX}_running_requests", "Requests admitted and not ended.", registry=registry
    ).set_function(running)
    Gauge(
        f"{_PREFIX}_forecast_tokens_per_second",
        "Output tokens a second that deadlines are weighed against; 0: not measured yet.",
        registry=registry,
    ).set_function(rate)


class RecoveryMetrics:
    """Counts of recovery."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.resubmissions = Counter(
            f"{_PREFIX}_resubmissions",
            "Requests submitted again after their replica was lost.",
            registry=registry,
        )
        self.reregistrations = Counter(
            f"{_PREFIX}_reregistrations",
            "Requests registered again after their detokenizer was lost.",
            registry=registry,
        )
        self.fenced_deltas = Counter(
            f"{_PREFIX}_fenced_deltas",
            "Deltas dropped because their request has moved on, or ended.",
            registry=registry,
        )
        self.crash_implications = Counter(
            f"{_PREFIX}_crash_implications",
            "Requests that were running when an engine crashed.",
            registry=registry,
        )


class LinkCollector(Collector):
    """State of the links at each scrape, and the transport of bulk data over them."""

    def __init__(self, list_links: ListLinks) -> None:
        self._list_links = list_links

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One sample a link: 1 where it is up."""
        family = GaugeMetricFamily(
            f"{_PREFIX}_link_ready",
            "Whether a link to another service is up.",
            labels=["peer", "address", "transport"],
        )
        for link in self._list_links():
            name = service_pb2.Transport.Name(link.transport)
            transport = name.removeprefix("TRANSPORT_").lower()
            family.add_metric([link.service, link.address, transport], float(link.ready))
        yield family
