"""From single turns to ratios: each round's figure over the same round's, then their median.

A machine that is slow for a while is slow for neighbours, so a ratio within a round means something
where a ratio of two averages does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.peers.workloads import PREFILL

Figure = Literal["output_tokens_per_s", "ttft_ms", "tpot_ms", "prefill_tokens_per_s", "start_s"]
Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """One figure of a turn.

    Attributes:
        figure: which; of a distribution, its median.
        cell: of which cell; None: of the start.
    """

    figure: Figure
    cell: str | None = None


@dataclass(frozen=True)
class Spread:
    """Spread of a figure over rounds."""

    median: float
    low: float
    high: float
    rounds: int


def value(turn: Turn, metric: Metric) -> float | None:
    """The figure in a turn; None where it was not measured or requests failed."""
    if metric.cell is None:
        start: Any = turn.get(metric.figure)
        return None if start is None else float(start)
    cell = turn.get("cells", {}).get(metric.cell)
    if cell is None or cell["failures"]:
        return None
    if metric.figure == "prefill_tokens_per_s":
        ttft_s = float(cell["ttft_ms"]["p50"]) / 1000
        return float(cell["prompt_tokens"]) / float(cell["requests"]) / ttft_s
    found: Any = cell[metric.figure]
    middle = found["p50"] if isinstance(found, Mapping) else found
    return None if middle is None else float(middle)


def prefill() -> Metric:
    """Tokens of a long prompt a second, by a lone request's time to its first token."""
    return Metric("prefill_tokens_per_s", PREFILL)


def values(turns: Iterable[Turn], model: str, server: str, metric: Metric) -> dict[int, float]:
    """A server's figure by round."""
    found = {}
    for turn in turns:
        if turn["model"] == model and turn.get("server") == server:
            one = value(turn, metric)
            if one is not None:
                found[int(turn["round"])] = one
    return found


def limits(turns: Iterable[Turn], model: str, name: str) -> dict[int, float]:
    """A limit of the machine by round, taken beside the turns on `model`."""
    return {
        int(turn["round"]): float(turn["limits"][name])
        for turn in turns
        if turn["model"] == model and "limits" in turn
    }


def quotients(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours over theirs, in the rounds that have both."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def spread(found: Sequence[float]) -> Spread | None:
    """Median, least and most; None where there is nothing."""
    if not found:
        return None
    return Spread(statistics.median(found), min(found), max(found), len(found))
