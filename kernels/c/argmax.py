"""The likeliest tokens of a step, read where its logits lie.

Invariant: the same as `kernels.cpu.sampling.argmax` finds, in whatever dtype the logits are.
"""

from __future__ import annotations

import numpy as np
import torch

from kernels.c.arguments import ARGMAX, CODES
from kernels.c.library import Library
from kernels.cpu.filters import Indices
from kernels.cpu.sampling import argmax


class NativeArgmax:
    """The id of each row's largest logit, the lowest among equals."""

    def __init__(self, library: Library) -> None:
        """Take the function of `library`."""
        self._argmax = library.function("argmax")

    def __call__(self, logits: torch.Tensor) -> Indices:
        """[rows, vocab], floating, to [rows]."""
        code = CODES.get(logits.dtype)
        if code is None or not logits.is_contiguous() or logits.shape[1] == 0:
            return argmax(logits.float().numpy())
        rows, length = logits.shape
        out = np.empty(rows, np.int64)
        pointers = logits.data_ptr(), rows, length, out.ctypes.data
        self._argmax(ARGMAX.pack(code, torch.get_num_threads(), *pointers))
        return out
