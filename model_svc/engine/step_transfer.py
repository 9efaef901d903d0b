"""The one upload and the one download of a step, in rings of pinned memory.

Invariant: memory that the device may still read or write is not used again before the device has
passed it; so no launch waits, as long as no more steps are in flight than the rings were made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_LEAST = 4096
"""Numbers that a block has room for at least."""


class Uploads:
    """Arrays of int64 that go to the device in one copy."""

    def __init__(self, device: torch.device, blocks: int) -> None:
        """Let `blocks` uploads be under way at once."""
        self._device = device
        self._ring = [_Block(torch.int64, device) for _ in range(blocks)]
        self._next = 0

    def send(self, parts: Sequence[npt.NDArray[np.int64]]) -> list[torch.Tensor]:
        """Copy `parts`, of one dimension each, to the device.

        Returns:
            [len(part)] int64 each, on the device, in the order of the parts.
        """
        block = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        ends = np.cumsum([len(part) for part in parts]).tolist()
        host = block.reserve(ends[-1])
        np.concatenate(parts, out=block.array[: ends[-1]])
        sent = host.to(self._device, non_blocking=True, copy=True)
        block.mark()
        return list(sent.tensor_split(ends[:-1]))


@dataclass(frozen=True, slots=True)
class Readback:
    """Numbers on their way to the host."""

    block: _Block
    shapes: list[tuple[int, ...]]

    def wait(self) -> list[npt.NDArray[np.int32]]:
        """Wait for them; copies of the parts, in order."""
        self.block.wait()
        arrays, at = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            arrays.append(self.block.array[at : at + size].reshape(shape).copy())
            at += size
        return arrays


class Downloads:
    """Tensors of int32 or float32 that come to the host in one copy."""

    def __init__(self, device: torch.device, blocks: int) -> None:
        """Let `blocks` downloads be under way at once."""
        self._ring = [_Block(torch.int32, device) for _ in range(blocks)]
        self._next = 0

    def receive(self, parts: Sequence[torch.Tensor]) -> Readback:
        """Have `parts`, of four bytes a number, copied; returns at once."""
        block = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        packed = torch.cat([part.reshape(-1).view(torch.int32) for part in parts])
        block.reserve(len(packed)).copy_(packed, non_blocking=True)
        block.mark()
        return Readback(block, [tuple(part.shape) for part in parts])


class _Block:
    """Pinned memory, and the event that says when the device has passed it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._cuda = device.type == "cuda"
        self._event: torch.cuda.Event | None = None
        self._allocate(_LEAST)

    def _allocate(self, size: int) -> None:
        self._host = torch.empty(size, dtype=self._dtype, pin_memory=self._cuda)
        self.array = self._host.numpy()

    def reserve(self, size: int) -> torch.Tensor:
        """The first `size` numbers, which nobody reads or writes any more; more room if need be."""
        self.wait()
        if size > len(self._host):
            self._allocate(1 << (size - 1).bit_length())
        return self._host[:size]

    def mark(self) -> None:
        """Note that the device has passed it once it has done all that was launched so far."""
        if self._cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> None:
        """Wait until the device has passed it."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
