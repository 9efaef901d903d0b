"""The GPU as the benchmark uses it.

Invariant: times are the GPU's own, of graphs that are queued before the first one is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch

from kernels.triton.configs import triton_version

Work = Callable[[], None]
"""Puts work into the current stream."""


class Device(Protocol):
    """What times are taken on.

    Attributes:
        kind: how torch names it.
        cache_bytes: of its last-level cache.
    """

    kind: str
    cache_bytes: int

    def warm(self, work: Work) -> None:
        """Do work once and wait for it: what is compiled, is compiled now."""
        ...

    def capture(self, work: Work) -> Work:
        """Record work; what is returned puts all of it into the stream at once."""
        ...

    def times_us(self, replay: Work, count: int) -> list[float]:
        """Microseconds that each of `count` replays takes, back to back."""
        ...


class Gpu:
    """The first GPU that torch sees, by CUDA graphs and events."""

    kind = "cuda"

    def __init__(self) -> None:
        self.cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)

    def describe(self) -> dict[str, str]:
        """The GPU, and what runs on it."""
        return {
            "gpu": torch.cuda.get_device_name(0),
            "torch": torch.__version__,
            "cuda": str(torch.version.cuda),
            "triton": triton_version(),
        }

    def warm(self, work: Work) -> None:
        """See `Device.warm`; beside the default stream, as a capture demands."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()

    def capture(self, work: Work) -> Work:
        """See `Device.capture`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def times_us(self, replay: Work, count: int) -> list[float]:
        """See `Device.times_us`."""
        marks = [_mark() for _ in range(count + 1)]
        # The first replay finds the GPU idle; it is not among those timed.
        replay()
        marks[0].record()
        for mark in marks[1:]:
            replay()
            mark.record()
        torch.cuda.synchronize()
        return [1000 * before.elapsed_time(after) for before, after in itertools.pairwise(marks)]


def _mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
