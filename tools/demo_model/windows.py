"""Tokens of a training step: windows cut from one long stream, each once before any again.

Invariant: window number n of a sampler is the same in every run with the same seed, so a resumed
training goes on where it stopped.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tools.demo_model.loops import repeat_passages


class WindowSampler:
    """Windows of one length over a stream of token ids, in a new order at every pass.

    A share `stuck` of them repeats itself; see `tools.demo_model.loops`.
    """

    def __init__(self, stream: np.ndarray, length: int, seed: int, stuck: float = 0.0) -> None:
        self._stuck = stuck
        self._stream = stream
        self._length = length
        self._seed = seed
        self._windows = (len(stream) - 1) // length
        if self._windows < 2:
            raise ValueError(f"{len(stream)} tokens are too few for windows of {length}")

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and the targets' weights of some consecutive windows.

        Args:
            first: number of the first window, counted over all passes.
            count: how many.

        Returns:
            Two `[count, length]` int64 tensors, the second one token ahead, and one of float32.
        """
        windows = [self._weighted(number) for number in range(first, first + count)]
        ids = torch.from_numpy(np.stack([window for window, _ in windows]).astype(np.int64))
        weights = torch.from_numpy(np.stack([weight for _, weight in windows]))
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]

    def _weighted(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        window = self._window(number)
        rng = np.random.default_rng((self._seed, self._length, number, 1))
        if rng.random() < self._stuck:
            return repeat_passages(window, rng)
        return window, np.ones(len(window), np.float32)

    def _window(self, number: int) -> np.ndarray:
        # The last window of a pass is given up so that each pass can cut at other places.
        round_, place = divmod(number, self._windows - 1)
        order = np.random.default_rng((self._seed, self._length, round_))
        shift = int(order.integers(self._length))
        start = shift + int(order.permutation(self._windows - 1)[place]) * self._length
        return self._stream[start : start + self._length + 1]


def validation_windows(stream: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
    """All whole windows of a stream, in order: inputs and targets `[windows, length]` int64."""
    windows = (len(stream) - 1) // length
    if windows < 1:
        raise ValueError(f"{len(stream)} tokens are too few for one window of {length}")
    ids = torch.from_numpy(stream[: windows * length + 1].astype(np.int64))
    return ids[:-1].view(windows, length), ids[1:].view(windows, length)
