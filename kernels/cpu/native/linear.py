"""Linear layers and experts in bfloat16, in C: weights are packed in the order they are read.

They serve where the processor multiplies bfloat16 by itself; one form of the weights serves one row
and a thousand. Invariant: an input that the C code does not take goes to PyTorch, and no pointer
is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch.nn import functional

from kernels.cpu.native.library import Function, Library
from kernels.ops import Routing

LEVEL = "avx512_bf16"
"""The level of instructions that has these products."""

VECTOR = 16
PANEL = 2 * VECTOR
"""Outputs whose weights lie together; as in source/linear.h."""

_LINEAR = struct.Struct("=q 3q 3q 2q").pack
_EXPERTS = struct.Struct("=q 2q 5q 4q 8q").pack


def packs(library: Library, weight: torch.Tensor) -> bool:
    """Whether these products take `weight` [..., outputs, inputs]."""
    known = weight.dtype == torch.bfloat16 and weight.shape[-1] % 2 == 0
    return library.level == LEVEL and known


def pack(weight: torch.Tensor) -> torch.Tensor:
    """Lay out [outputs, inputs] as source/linear.h reads it: panels by pairs by outputs by 2."""
    outputs, inputs = weight.shape
    filled = functional.pad(weight, (0, 0, 0, -outputs % PANEL))
    panels = filled.view(-1, 2, VECTOR, inputs // 2, 2)
    return panels.permute(0, 3, 1, 2, 4).contiguous()


def pack_gated(gate_up: torch.Tensor) -> torch.Tensor:
    """The same with half of each panel for gates and half for the ups that belong to them.

    Args:
        gate_up: [2 * intermediate, inputs], gate rows before up rows.
    """
    rows, inputs = gate_up.shape
    halves = gate_up.view(2, rows // 2, inputs)
    filled = functional.pad(halves, (0, 0, 0, -(rows // 2) % VECTOR))
    panels = filled.view(2, -1, VECTOR, inputs // 2, 2)
    return panels.permute(1, 3, 0, 2, 4).contiguous()


class PackedLinear:
    """A linear layer; see `kernels.ops.Linear`."""

    def __init__(self, multiply: Function, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [outputs, inputs] with an optional `bias` [outputs]."""
        self._multiply = multiply
        self._outputs, self._inputs = weight.shape
        self._weights = pack(weight)
        self._bias: torch.Tensor | None = None
        if bias is not None:
            self._bias = functional.pad(bias.float(), (0, -self._outputs % PANEL)).contiguous()
        self._of_layer = (
            self._weights.data_ptr(),
            self._inputs,
            self._outputs,
            0 if self._bias is None else self._bias.data_ptr(),
        )

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        rows, inputs = x.shape
        if inputs != self._inputs or x.dtype != torch.bfloat16:
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected bfloat16 {self._inputs}")
        if x.stride(1) != 1:
            x = x.contiguous()
        out = torch.empty((rows, self._outputs), dtype=torch.bfloat16)
        own = (torch.get_num_threads(), x.data_ptr(), rows, x.stride(0))
        self._multiply(_LINEAR(*own, *self._of_layer, out.data_ptr()))
        return out


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """One layer's experts."""

    hidden: int
    experts: int
    intermediate: int
    """Filled up to whole vectors."""
    routing: Routing
    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor

    @classmethod
    def pack(
        cls, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
    ) -> PackedExperts:
        """See `Operations.pack_experts`."""
        experts, hidden, intermediate = down.shape
        filled = functional.pad(down, (0, -intermediate % VECTOR))
        return cls(
            hidden,
            experts,
            filled.shape[2],
            routing,
            pack(router),
            torch.stack([pack_gated(own) for own in gate_up]),
            torch.stack([pack(own) for own in filled]),
        )


def moe(compute: Function, x: torch.Tensor, experts: PackedExperts) -> torch.Tensor:
    """See `Operations.moe`."""
    x = x.contiguous()
    if x.shape[1] != experts.hidden or x.dtype != torch.bfloat16:
        raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected bfloat16 {experts.hidden}")
    out = torch.empty_like(x)
    tokens, top_k = x.shape[0], experts.routing.top_k
    rows, padded = tokens * top_k, -(-experts.hidden // PANEL) * PANEL
    # All scratch in one piece, the widest numbers first; sizes in bytes.
    sizes = (
        8 * rows,  # chosen
        8 * (experts.experts + 1),  # starts
        8 * experts.experts,  # hit
        8 * rows,  # tokens_of
        4 * tokens * padded,  # sums
        4 * rows,  # weights
        4 * rows,  # weights_of
        2 * rows * experts.intermediate,  # gated
    )
    scratch = torch.empty(sum(sizes), dtype=torch.uint8)
    at, places = scratch.data_ptr(), []
    for size in sizes:
        places.append(at)
        at += size
    chosen, starts, hit, tokens_of, sums, weights, weights_of, gated = places
    shape = (tokens, experts.hidden, experts.experts, top_k, experts.routing.renormalise)
    packed = (experts.router.data_ptr(), experts.gate_up.data_ptr(), experts.down.data_ptr())
    compute(
        _EXPERTS(
            torch.get_num_threads(), x.data_ptr(), out.data_ptr(), *shape, *packed,
            experts.intermediate, weights, chosen, starts, hit, tokens_of, weights_of, gated, sums,
        )
    )  # fmt: skip
    return out
