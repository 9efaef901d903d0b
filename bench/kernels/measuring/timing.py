"""Times of calls on the GPU, over operands that take turns.

Invariant: between two uses of the same operands, several times the cache's size was moved.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_CACHES = 4
"""Cache sizes to be moved before operands are used again."""

REP_MS = 20.0
QUICK_REP_MS = 3.0


class Bench(Protocol):
    """`triton.testing.do_bench_cudagraph`, or a stand-in."""

    def __call__(
        self, fn: Callable[[], Any], *, rep: float, return_mode: str
    ) -> Sequence[float]: ...


@dataclass(frozen=True, slots=True)
class Device:
    """Device to measure on.

    Attributes:
        kind: torch's name of it.
        cache_bytes: size of its last-level cache.
        bench: runs a function in CUDA graphs of `rep` milliseconds; milliseconds of a call, by
            graph.
    """

    kind: str
    cache_bytes: int
    bench: Bench


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one call in microseconds, the mean of each graph's calls."""

    median_us: float
    p10_us: float
    p90_us: float


def gpu() -> Device:
    """The first GPU that torch sees, timed by Triton."""
    import torch
    from triton.testing import do_bench_cudagraph  # type: ignore[import-untyped]

    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    return Device("cuda", cache_bytes, do_bench_cudagraph)


def sets_needed(device: Device, moved_bytes: int) -> int:
    """Number of sets of operands that must take turns, each moving so many bytes."""
    return max(2, math.ceil(_CACHES * device.cache_bytes / max(moved_bytes, 1)))


def time_calls(device: Device, calls: Sequence[Callable[[], Any]], rep_ms: float) -> Timing:
    """Time calls that do the same to different operands.

    Args:
        device: to measure on.
        calls: made in turn.
        rep_ms: length of a graph, in milliseconds.
    """

    def turn() -> None:
        for call in calls:
            call()

    turns_ms = device.bench(turn, rep=rep_ms, return_mode="all")
    each = sorted(1000 * turn_ms / len(calls) for turn_ms in turns_ms)
    tenth = len(each) // 10
    return Timing(statistics.median(each), each[tenth], each[-1 - tenth])
