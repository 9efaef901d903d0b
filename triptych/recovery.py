"""Counts of a deployment's recoveries, read from its services' metrics.

A service that does not count something counts 0 of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from prometheus_client.parser import text_string_to_metric_families

_COUNTERS = {
    "triptych_router_resubmissions_total": "resubmissions",
    "triptych_router_reregistrations_total": "reregistrations",
    "triptych_router_fenced_deltas_total": "fenced_deltas",
    "triptych_router_crash_implications_total": "crash_implications",
    "triptych_detokenizer_replays_total": "replays",
    "triptych_detokenizer_fenced_rows_total": "fenced_rows",
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """Recoveries since the services started, so that no request was lost.

    Attributes:
        resubmissions: requests given to a model once more.
        reregistrations: requests made known to a detokenizer once more.
        replays: requests whose missing rows a detokenizer asked for.
        fenced_deltas: text of earlier attempts that a router dropped.
        fenced_rows: rows of earlier attempts that a detokenizer dropped.
        crash_implications: how often a request was running on a model that crashed.
    """

    resubmissions: int = 0
    reregistrations: int = 0
    replays: int = 0
    fenced_deltas: int = 0
    fenced_rows: int = 0
    crash_implications: int = 0


def read_from(text: str) -> Recovery:
    """Read the counts from a service's metrics in Prometheus text."""
    counts = dict.fromkeys(_COUNTERS.values(), 0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _COUNTERS:
                counts[_COUNTERS[sample.name]] += int(sample.value)
    return Recovery(**counts)


def summed(parts: Iterable[Recovery]) -> Recovery:
    """All of `parts` together."""
    counts = dict.fromkeys(_COUNTERS.values(), 0)
    for part in parts:
        for name, count in asdict(part).items():
            counts[name] += count
    return Recovery(**counts)
