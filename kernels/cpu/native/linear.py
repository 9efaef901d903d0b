"""Linear layers and experts in bfloat16, in C: weights are packed in the order they are read.

They serve where the processor multiplies bfloat16 by itself; one form of the weights serves one row
and a thousand. Invariant: an input that the C code does not take goes to PyTorch, and no pointer
is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from kernels.cpu.native.arguments import EXPERTS, LINEAR
from kernels.cpu.native.calls import Calls
from kernels.cpu.native.routing import scratch_for
from kernels.ops import Routing

VECTOR = 16
PANEL = 2 * VECTOR
"""Outputs whose weights lie together; as in source/linear.h."""


def packable(weight: torch.Tensor) -> bool:
    """Whether these products take `weight` [..., outputs, inputs]."""
    return weight.dtype == torch.bfloat16 and weight.shape[-1] % 2 == 0


def pack(weight: torch.Tensor) -> torch.Tensor:
    """[..., outputs, inputs] as source/linear.h reads it: panels by pairs by outputs by 2."""
    panels = _split(_pairs(weight, PANEL), PANEL)
    return _as_weights(panels.transpose(-1, -2))


def pack_gated(gate_up: torch.Tensor) -> torch.Tensor:
    """The same with half of each panel for gates and half for the ups that belong to them.

    Args:
        gate_up: [..., 2 * intermediate, inputs], gate rows before up rows.
    """
    halves = _split(gate_up, gate_up.shape[-2] // 2)
    panels = _split(_pairs(halves, VECTOR), VECTOR).movedim(-4, -3).flatten(-3, -2)
    return _as_weights(panels.transpose(-1, -2))


def _split(rows: torch.Tensor, size: int) -> torch.Tensor:
    """[..., rows, columns] to [..., rows / size, size, columns]."""
    *others, count, columns = rows.shape
    return rows.reshape(*others, count // size, size, columns)


def _pairs(weight: torch.Tensor, multiple: int) -> torch.Tensor:
    """Two inputs as one number, for they stay together; outputs filled up to a `multiple`."""
    spare = -weight.shape[-2] % multiple
    filled = functional.pad(weight, (0, 0, 0, spare)) if spare else weight
    return filled.contiguous().view(torch.int32)


def _as_weights(pairs: torch.Tensor) -> torch.Tensor:
    whole = pairs.contiguous()
    return whole.view(torch.bfloat16).view(*whole.shape, 2)


class PackedLinear:
    """A linear layer, or one of gates and ups; see `kernels.ops.Linear`."""

    def __init__(
        self,
        calls: Calls,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        gated: bool = False,
    ) -> None:
        """Pack `weight` [outputs, inputs] with an optional `bias` [outputs].

        With `gated`, the first half of the outputs are gates and the second half ups, and the layer
        gives `silu(gate) * up`.
        """
        self._calls = calls
        self._multiply = calls.function("linear")
        rows, self._inputs = weight.shape
        self._outputs = rows // 2 if gated else rows
        self._weights = pack_gated(weight) if gated else pack(weight)
        self._bias: torch.Tensor | None = None
        if bias is not None:
            halves = bias.float().view(2 if gated else 1, -1)
            lanes = VECTOR if gated else PANEL
            filled = functional.pad(halves, (0, -self._outputs % lanes))
            panels = filled.view(len(halves), -1, lanes)
            self._bias = panels.transpose(0, 1).contiguous()
        self._gated = gated
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
            self._calls.compute_otherwise()
            x = x.contiguous()
        out = self._calls.empty((rows, self._outputs), torch.bfloat16)
        own = (torch.get_num_threads(), x.data_ptr(), rows, x.stride(0))
        self._multiply(LINEAR.pack(*own, *self._of_layer, self._gated, out.data_ptr()))
        return out


class ExpertSizes(NamedTuple):
    """Of one layer."""

    experts: int
    hidden: int
    intermediate: int
    """Filled up to whole vectors."""


class NativeExperts:
    """One layer's experts; a token's rows go through its own only."""

    def __init__(
        self,
        calls: Calls,
        weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        sizes: ExpertSizes,
        routing: Routing,
    ) -> None:
        """Compute with packed `weights` of router, gates and ups, and down projections."""
        self._calls = calls
        self._compute = calls.function("experts")
        self._weights = weights
        self._sizes = sizes
        self._routing = routing
        self._packed = tuple(weight.data_ptr() for weight in weights)

    @classmethod
    def pack(
        cls,
        calls: Calls,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        routing: Routing,
    ) -> NativeExperts:
        """See `Operations.pack_experts`."""
        experts, hidden, intermediate = down.shape
        spare = -intermediate % VECTOR
        filled = functional.pad(down, (0, spare)) if spare else down
        weights = (
            pack(router),
            pack_gated(gate_up),
            pack(filled),
        )
        return cls(calls, weights, ExpertSizes(experts, hidden, filled.shape[2]), routing)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Operations.moe`."""
        sizes = self._sizes
        if not x.is_contiguous():
            self._calls.compute_otherwise()
            x = x.contiguous()
        tokens, hidden = x.shape
        if hidden != sizes.hidden or x.dtype != torch.bfloat16:
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected bfloat16 {sizes.hidden}")
        out = self._calls.empty(x.shape, x.dtype)
        gated = 2 * tokens * self._routing.top_k * sizes.intermediate
        sums = 4 * tokens * -(-sizes.hidden // PANEL) * PANEL
        scratch = scratch_for(self._calls, tokens, sizes.experts, self._routing, (gated, sums))
        own = (torch.get_num_threads(), x.data_ptr(), out.data_ptr(), hidden)
        weights = (*self._packed, sizes.intermediate)
        self._compute(EXPERTS.pack(*own, *scratch.routing, *weights, *scratch.others))
        return out
