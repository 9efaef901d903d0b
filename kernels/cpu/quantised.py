"""Weights of 8 or 4 bits in plain PyTorch.

A weight is a level times a scale: of 8 bits, -127 to 127 with a scale per output; of 4, one of the
sixteen `LEVELS` with a scale for every 32 inputs of an output. Invariant: norms, the embedding and
the routers of experts stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from kernels.devices import UnsupportedDevice
from kernels.formats import Int4Group, Int8
from kernels.layers import Linear, LinearContext

PackDense = Callable[[torch.Tensor, torch.Tensor | None], Linear]
"""Makes a dense layer of a weight and an optional bias."""

GROUP = 32
"""Inputs that share a scale, of 4 bits."""

BLOCK = 128
"""Inputs of a token that share a scale where activations are rounded."""

LEVELS = (-127, -102, -82, -65, -50, -37, -23, -11, 2, 14, 27, 41, 55, 71, 90, 113)
"""Lloyd and Max's quantiser for groups of 32 normal numbers; see source/quantise.h."""

_LEAST = 2.0**-100
_GREATEST = 127


class RoundedLinear:
    """A product of weights that are rounded as a format has them; see `Linear`.

    The result is the one of weights kept in fewer bits; memory and time are those of whole ones.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: Int8 | Int4Group,
        pack_dense: PackDense,
    ) -> None:
        """Round `weight` [outputs, inputs] and pack it by `pack_dense`.

        Raises:
            UnsupportedDevice: there is no rounding to groups of this size.
        """
        round_weight = round_to_int8 if isinstance(format, Int8) else round_to_int4
        check_group(format)
        self._product = pack_dense(round_weight(weight.float()).to(weight.dtype), bias)
        self._rounds_rows = isinstance(format, Int8) and format.int8_activations

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        out = self._product(round_activations(x) if self._rounds_rows else x)
        return out if context is None else context.add(x, out)


def check_group(format: Int8 | Int4Group) -> None:
    """Refuse groups of a size that no product here has.

    Raises:
        UnsupportedDevice: it is another; the message names it.
    """
    if isinstance(format, Int4Group) and format.group != GROUP:
        raise UnsupportedDevice(
            f"device 'cpu' has no products of 4 bits in groups of {format.group} inputs: "
            f"use groups of {GROUP}"
        )


def round_to_int8(weight: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] float32 to the nearest that int8 levels give."""
    return _round_rows(weight)


def round_activations(x: torch.Tensor) -> torch.Tensor:
    """[tokens, inputs] to the nearest that int8 gives, by a scale for each token and block."""
    blocks = _grouped(x.float(), BLOCK)
    return _round_rows(blocks).flatten(1)[:, : x.shape[1]].to(x.dtype)


def round_to_int4(weight: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] float32 to about the nearest that 4 bits give.

    The first guess of a group's scale puts its number of greatest magnitude at either end of the
    levels; a least-squares fit to the levels found follows.
    """
    groups = _grouped(weight, GROUP)
    tops = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    tops = torch.where(tops.abs() < _LEAST, torch.inf, tops)
    least, best = torch.full_like(tops, torch.inf), torch.zeros_like(groups)
    for end in (-_GREATEST, _GREATEST):
        levels = _nearest_levels(groups * (end / tops))
        scales = (groups * levels).sum(2, keepdim=True) / levels.square().sum(2, keepdim=True)
        scales = torch.where(tops.isinf(), 0, scales).bfloat16().float()
        inverse = torch.where(scales == 0, 0, 1 / scales)
        rounded = _nearest_levels(groups * inverse) * scales
        error = (rounded - groups).square().sum(2, keepdim=True)
        best = torch.where(error < least, rounded, best)
        least = torch.minimum(error, least)
    return best.flatten(1)[:, : weight.shape[1]]


def _round_rows(x: torch.Tensor) -> torch.Tensor:
    magnitude = x.abs().amax(-1, keepdim=True)
    factor = torch.where(magnitude > _LEAST, _GREATEST / magnitude, 0)
    return (x * factor).round() * (magnitude / _GREATEST)


def _grouped(x: torch.Tensor, size: int) -> torch.Tensor:
    """[rows, columns] to [rows, groups, size], filled up with zeros."""
    filled = functional.pad(x, (0, -x.shape[1] % size))
    return filled.view(x.shape[0], filled.shape[1] // size, size)


def _nearest_levels(x: torch.Tensor) -> torch.Tensor:
    levels = torch.tensor(LEVELS, dtype=torch.float32)
    return levels[torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)]
