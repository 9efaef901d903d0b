"""Times calls on a device, over operands that take turns.

Invariant: between two uses of the same operands, several times the cache's size was moved.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.kernels.device import Device, Work

_CACHES = 4
"""Cache sizes to be moved before operands are used again."""
_MOST_CALLS = 400
"""Calls of one graph."""
_PILOT_REPLAYS = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How thoroughly to measure."""

    replays: int = 50
    """Graphs that are timed."""
    graph_us: float = 3000.0
    """How long one should take at least, so that its start does not count."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call takes, in microseconds; of each graph's calls the mean."""

    median_us: float
    p10_us: float
    p90_us: float
    calls: int
    """In a graph."""
    replays: int


def sets_needed(device: Device, moved_bytes: int) -> int:
    """How many sets of operands must take turns, each moving so many bytes."""
    return max(2, math.ceil(_CACHES * device.cache_bytes / max(moved_bytes, 1)))


def time_calls(device: Device, calls: Sequence[Callable[[], Any]], pace: Pace) -> Timing:
    """Time calls that do the same to different operands; each was made before, or is now."""
    device.warm(_in_turn(calls, 1))
    pilot = device.times_us(device.capture(_in_turn(calls, 1)), _PILOT_REPLAYS)
    # Of an immeasurably short pilot, as many as may be.
    turn_us = max(statistics.median(pilot), 1e-3)
    most = max(_MOST_CALLS // len(calls), 1)
    turns = min(max(math.ceil(pace.graph_us / turn_us), 1), most)
    replay = device.capture(_in_turn(calls, turns))
    count = turns * len(calls)
    each = sorted(graph_us / count for graph_us in device.times_us(replay, pace.replays))
    tenth = len(each) // 10
    return Timing(statistics.median(each), each[tenth], each[-1 - tenth], count, len(each))


def _in_turn(calls: Sequence[Callable[[], Any]], turns: int) -> Work:
    def work() -> None:
        for _ in range(turns):
            for call in calls:
                call()

    return work
