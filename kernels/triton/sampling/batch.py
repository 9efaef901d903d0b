"""Sampling parameters of the rows of a batch, as arrays on the device.

All but `Uses` is read by kernels alone, so a step can be replayed from a CUDA graph after the
arrays were written anew. Invariant: an array has one entry for each row, but those of a `Ragged`,
where each row has a stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from kernels.portable_math import log
from kernels.triton.sampling.scratch import GROUP


class Choices(NamedTuple):
    """Parameters of each row's draw; [rows] each. Triton takes named tuples apart.

    None of their fields may be called `values` or `type`: Triton's own tuples have these.
    """

    temperatures: torch.Tensor
    """float32; what is below the smallest normal one takes the likeliest token."""
    seeds: torch.Tensor
    """int64, the bits of an unsigned one: the key of the draws."""
    positions: torch.Tensor
    """int64, below 2**32: the place in the output of the token to draw."""
    candidates: torch.Tensor
    """int64, below 2**32."""
    top_k: torch.Tensor
    """int64, 0 for no limit."""
    top_p: torch.Tensor
    """float64 in (0, 1], 1 for no limit."""
    floors: torch.Tensor
    """float32, what `floors` makes of min-p."""


class Ragged(NamedTuple):
    """A list of ids for each row, none of them twice in a row's."""

    starts: torch.Tensor
    """[rows] int64: where a row's stretch of `ids` begins."""
    lengths: torch.Tensor
    """[rows] int32."""
    ids: torch.Tensor
    """int32; what is not in the vocabulary means nothing."""
    amounts: torch.Tensor | None = None
    """Like `ids`, a number for each; None where none is needed."""


class Edits(NamedTuple):
    """Changes of each row's logits before the draw, in this order."""

    bias: Ragged
    """Its amounts, float32, are added."""
    history: Ragged
    """Tokens of prompt and output; its amounts, int32, say how often the output has each."""
    repetition: torch.Tensor
    """[rows] float32, divides logits above 0 and multiplies others: 1 for none."""
    presence: torch.Tensor
    """[rows] float32, is subtracted where the output has the token: 0 for none."""
    frequency: torch.Tensor
    """[rows] float32, is subtracted for every time that the output has it: 0 for none."""
    suppressed: Ragged
    """No amounts: these tokens may not be drawn"""
    min_tokens: torch.Tensor
    """[rows] int64: at positions before it."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Needs of some row of a batch, known to the host: what none needs is not launched."""

    filters: bool = True
    """Top-k, top-p or min-p."""
    tally: bool = True
    """Probability added up over a vocabulary: for top-p without a small top-k, or a large one."""

    @classmethod
    def by(
        cls,
        top_k: npt.NDArray[np.int64],
        top_p: npt.NDArray[np.float64],
        min_p: npt.NDArray[np.float64],
        vocab_size: int,
    ) -> Uses:
        """Needs of a batch with these limits; [rows] each, as in `Choices` but for `min_p`."""
        limited = (top_k > 0) & (top_k < vocab_size)
        small = limited & (top_k <= vocab_size // GROUP)
        tally = ~small & (limited | (top_p < 1.0))
        return cls(bool((limited | (top_p < 1.0) | (min_p > 0.0)).any()), bool(tally.any()))


def floors(min_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Greatest distance of a scaled logit below the likeliest token's; -inf without min-p.

    Args:
        min_p: any shape, in [0, 1], 0 for no limit.
    """
    result = np.full(min_p.shape, -np.inf, np.float32)
    result[min_p > 0.0] = log(min_p[min_p > 0.0]).astype(np.float32)
    return result
