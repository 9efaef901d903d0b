"""Memory for the intermediate results of a captured computation.

Such calls run in one order, over and over, so memory that a tensor no longer needs may serve a
later one, and computations that never run at the same time may share it. Invariant: a block serves
one tensor and its views at a time, and is never given back to the system.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

_LEAST = 4096  # bytes: smaller tensors are not worth a search
_SPARE = 16  # times as large a block may be as what it serves


class Arena:
    """Blocks of memory, handed out as tensors."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._blocks: list[npt.NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Like `torch.empty`; the memory serves again when the tensor and its views are gone."""
        size = math.prod(shape) * dtype.itemsize
        block = self._take(size)
        lease = block[:size].view(_Lease)
        lease.block, lease.free = block, self._free
        return torch.from_numpy(lease).view(dtype).view(shape)

    def without_lease(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same contiguous memory of this arena, but free for others."""
        size = tensor.numel() * tensor.dtype.itemsize
        for block in self._blocks:
            offset = tensor.data_ptr() - block.ctypes.data
            if 0 <= offset < len(block):
                own = torch.from_numpy(block[offset : offset + size])
                return own.view(tensor.dtype).view(tensor.shape)
        raise ValueError(f"a tensor {tuple(tensor.shape)} of other memory")

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        """The smallest free block that is large enough, and not too large for so little."""
        most = _SPARE * max(size, _LEAST)
        fitting = [at for at, block in enumerate(self._free) if size <= len(block) <= most]
        if fitting:
            return self._free.pop(min(fitting, key=lambda place: len(self._free[place])))
        # Powers of two, so that steps of other sizes find blocks that fit.
        rounded = 1 << max(size - 1, _LEAST - 1).bit_length()
        block = torch.empty(rounded, dtype=torch.uint8).numpy()
        self._blocks.append(block)
        return block


class _Lease(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """The array behind a living tensor; gives its block back when it is freed."""

    block: npt.NDArray[np.uint8]
    free: list[npt.NDArray[np.uint8]]

    def __del__(self) -> None:
        self.free.append(self.block)
