"""Weights of 8 or 4 bits in plain PyTorch, and a set of operations whose layers have them.

A weight is a level times a scale: of 8 bits, -127 to 127 with a scale per output; of 4, one of the
sixteen `LEVELS` with a scale for every 32 inputs of an output. Invariant: norms, the embedding and
the routers of experts stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kernels.cpu import experts
from kernels.cpu.experts import Arithmetic, ExpertSizes, PackedExperts, SeparateExperts
from kernels.eager import capture, gated
from kernels.ops import Linear, Operations, PackLinear, Routing

GROUP = 32
"""Inputs that share a scale, of 4 bits."""

BLOCK = 128
"""Inputs of a token that share a scale where activations are rounded."""

LEVELS = (-127, -102, -82, -65, -50, -37, -23, -11, 2, 14, 27, 41, 55, 71, 90, 113)
"""Lloyd and Max's quantiser for groups of 32 normal numbers; see source/quantise.h."""

_LEAST = 2.0**-100
_GREATEST = 127


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a model's products are computed."""

    weight_bits: int
    """8 or 4."""
    activation_bytes: int
    """1 for activations rounded to int8, 2 where that is not wanted."""


QUANTISATIONS = {
    "int8": Quantisation(weight_bits=8, activation_bytes=2),
    "int4": Quantisation(weight_bits=4, activation_bytes=2),
    "w8a8": Quantisation(weight_bits=8, activation_bytes=1),
}
"""What a model may be quantised to, by the names that users know."""


class QuantisedOperations:
    """Another set of operations, but for its linear layers and experts; see `Operations`.

    PyTorch sorts tokens by their experts, so nothing is captured.
    """

    capture = staticmethod(capture)

    def __init__(self, base: Operations, pack_linear: PackLinear, routing: torch.dtype) -> None:
        """Take what is not quantised from `base`.

        Args:
            base: the other set.
            pack_linear: makes a quantised layer.
            routing: in which the softmax over the scores of experts is taken.
        """
        self.pack_linear = pack_linear
        self.pack_gated = gated(pack_linear, base.silu_mul)
        self.embedding = base.embedding
        self.take_rows = base.take_rows
        self.rms_norm = base.rms_norm
        self.norm_heads = base.norm_heads
        self.rope_angles = base.rope_angles
        self.rope = base.rope
        self.store_kv = base.store_kv
        self.plan_attention = base.plan_attention
        self.attention = base.attention
        self.silu_mul = base.silu_mul
        self._pack_router = base.pack_linear
        self._arithmetic = Arithmetic(pack_linear, base.silu_mul, routing)

    def pack_experts(
        self, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
    ) -> PackedExperts:
        """See `Operations.pack_experts`."""
        count, hidden, intermediate = down.shape
        separate = SeparateExperts(
            self._pack_router(router, None),
            [self.pack_linear(own, None) for own in gate_up],
            [self.pack_linear(own, None) for own in down],
        )
        sizes = ExpertSizes(count, routing.top_k, hidden, intermediate, down.dtype.itemsize)
        return PackedExperts(sizes, routing, self._arithmetic, separate, None)

    def moe(self, x: torch.Tensor, experts_: PackedExperts) -> torch.Tensor:
        """See `Operations.moe`."""
        return experts.moe(x, experts_)


def pack_rounded(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    quantisation: Quantisation,
    pack_linear: PackLinear,
) -> Linear:
    """A layer of `pack_linear` whose weights are rounded as the quantisation has them.

    What it computes is the same as where weights are kept in fewer bits, but it takes the memory
    and the time of whole ones.
    """
    round_weight = round_to_int8 if quantisation.weight_bits == 8 else round_to_int4
    product = pack_linear(round_weight(weight.float()).to(weight.dtype), bias)
    if quantisation.activation_bytes == 2:
        return product
    return lambda x: product(round_activations(x))


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
