"""Figures of a run, from the times of its requests.

TTFT runs from sending to the first message, TPOT is the time from the first message to the last
over the tokens after the first, end-to-end runs from sending to the last message.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """One request.

    Attributes:
        output_tokens: tokens it got.
        messages: messages they came in.
        ttft_s: seconds to the first message.
        total_s: seconds to the last.
        failure: gRPC status it failed with; None where it did not.
    """

    output_tokens: int
    messages: int
    ttft_s: float
    total_s: float
    failure: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None where there is none."""
        if self.output_tokens < 2:
            return None
        return (self.total_s - self.ttft_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution, in milliseconds."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures that a run measured.

    Attributes:
        concurrency: streams at a time; None where a trace set the pace.
        requests: how many were sent.
        failures: how many failed, by gRPC status.
        wall_s: from the first sent to the last finished.
    """

    concurrency: int | None
    requests: int
    failures: dict[str, int]
    wall_s: float
    output_tokens: int
    output_tokens_per_s: float
    requests_per_s: float
    messages_per_s: float
    ttft_ms: Spread
    tpot_ms: Spread
    end_to_end_ms: Spread

    def as_json(self) -> dict[str, Any]:
        """Plain data; a figure that does not exist is null."""
        return {key: _finite(value) for key, value in asdict(self).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def summarise(times: Iterable[RequestTimes], wall_s: float, concurrency: int | None) -> Figures:
    """The figures of a run; rates and spreads are over the requests that succeeded."""
    everything = list(times)
    good = [one for one in everything if one.failure is None]
    failures = Counter(one.failure for one in everything if one.failure is not None)
    tokens = sum(one.output_tokens for one in good)
    return Figures(
        concurrency=concurrency,
        requests=len(everything),
        failures=dict(failures),
        wall_s=wall_s,
        output_tokens=tokens,
        output_tokens_per_s=tokens / wall_s,
        requests_per_s=len(good) / wall_s,
        messages_per_s=sum(one.messages for one in good) / wall_s,
        ttft_ms=spread(one.ttft_s for one in good),
        tpot_ms=spread(tpot for one in good if (tpot := one.tpot_s) is not None),
        end_to_end_ms=spread(one.total_s for one in good),
    )


def spread(seconds: Iterable[float]) -> Spread:
    """Mean and percentiles of durations; not-a-number where there are none."""
    values = sorted(seconds)
    if not values:
        return Spread(math.nan, math.nan, math.nan)
    mean = math.fsum(values) / len(values)
    return Spread(1000 * mean, 1000 * percentile(values, 50), 1000 * percentile(values, 99))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile of ascending values, interpolated between neighbours."""
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
