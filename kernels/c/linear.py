"""Linear layers and experts in bfloat16, in C: weights are packed in the order they are read.

One form of the weights serves one row and a thousand. Invariant: an input that the C code does not
take goes to PyTorch, and no pointer is passed on before dtype, shape and strides are known to be
right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from kernels.c.arguments import EXPERTS, LINEAR, PACK_PANELS
from kernels.c.calls import Calls
from kernels.c.routing import scratch_for
from kernels.formats import DENSE, Dense
from kernels.layers import LinearContext
from kernels.ops import Routing


def packable(weight: torch.Tensor) -> bool:
    """These products take `weight` [..., outputs, inputs]."""
    return weight.dtype == torch.bfloat16 and weight.shape[-1] % 2 == 0


class Panels:
    """Layout of weights and rows for a library's products; see source/tiles.h."""

    def __init__(self, calls: Calls) -> None:
        """Pack for the level of the library that is called."""
        self._calls = calls
        self.lanes = calls.library.constant("lanes")
        """Outputs of half a panel."""
        self.outputs = 2 * self.lanes
        """Outputs whose weights lie together."""
        self.input_bytes = calls.library.constant("input_bytes")
        """Of a number in the rows that are multiplied."""

    def pack(self, weight: torch.Tensor, *, gated: bool = False) -> torch.Tensor:
        """[..., outputs, inputs] to panels by pairs of inputs by outputs by 2.

        With `gated`, the first half of the outputs are gates and the second half ups, and half of
        each panel is for gates, half for the ups that belong to them.
        """
        weight = weight.contiguous()
        *others, outputs, inputs = weight.shape
        lanes, own = (self.lanes, outputs // 2) if gated else (self.outputs, outputs)
        panels = torch.empty(
            (*others, -(-own // lanes), inputs // 2, self.outputs, 2), dtype=weight.dtype
        )
        self._calls.library.function("pack_panels")(
            PACK_PANELS.pack(
                *(torch.get_num_threads(), weight.data_ptr()),
                *(math.prod(others), outputs, inputs, gated, panels.data_ptr()),
            )
        )
        return panels

    def pack_bias(self, bias: torch.Tensor, *, gated: bool) -> torch.Tensor:
        """[outputs] to [panels, outputs of a panel] float32, `gated` as in `pack`."""
        halves = bias.float().view(2 if gated else 1, -1)
        lanes = self.lanes if gated else self.outputs
        filled = functional.pad(halves, (0, -halves.shape[1] % lanes))
        return filled.view(len(halves), -1, lanes).transpose(0, 1).contiguous()

    def widened(self, x: torch.Tensor) -> torch.Tensor | None:
        """Memory to widen the rows of `x` into; None where they are multiplied as they are.

        It has to be kept until the call is made or recorded.
        """
        if self.input_bytes == x.dtype.itemsize:
            return None
        return self._calls.empty((x.shape[0], x.shape[1] * self.input_bytes), torch.uint8)


class PackedLinear:
    """A linear layer, or one of gates and ups; see `kernels.layers.Linear`."""

    def __init__(
        self,
        calls: Calls,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: Dense = DENSE,
        *,
        gated: bool = False,
    ) -> None:
        """Pack `weight` [outputs, inputs] with an optional `bias` [outputs].

        With `gated`, the first half of the outputs are gates and the second half ups, and the layer
        gives `silu(gate) * up`.
        """
        self._calls = calls
        self._multiply = calls.function("linear")
        self._panels = Panels(calls)
        rows, self._inputs = weight.shape
        self._gated = gated
        self._outputs = rows // 2 if gated else rows
        self._weights = self._panels.pack(weight, gated=gated)
        self._bias = None if bias is None else self._panels.pack_bias(bias, gated=gated)
        self._of_layer = (
            self._weights.data_ptr(),
            self._outputs,
            0 if self._bias is None else self._bias.data_ptr(),
            gated,
        )

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        rows, inputs = x.shape
        if inputs != self._inputs or x.dtype != torch.bfloat16:
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected bfloat16 {self._inputs}")
        if x.stride(1) != 1:
            self._calls.compute_otherwise()
            x = x.contiguous()
        out = self._calls.empty((rows, self._outputs), torch.bfloat16)
        widened = self._panels.widened(x)
        where = 0 if widened is None else widened.data_ptr()
        own = (torch.get_num_threads(), x.data_ptr(), rows, x.stride(0), inputs, where)
        self._multiply(LINEAR.pack(*own, *self._of_layer, out.data_ptr()))
        return out if context is None else self._with(context, x, out)

    def _with(self, context: LinearContext, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if self._gated:
            raise ValueError("gates are fused with their product: pack them with takes_context")
        self._calls.compute_otherwise()
        return context.add(x, out)


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
        self._panels = Panels(calls)
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
        format: Dense = DENSE,
    ) -> NativeExperts:
        """See `Operations.pack_experts`."""
        experts, hidden, intermediate = down.shape
        panels = Panels(calls)
        spare = -intermediate % panels.lanes
        filled = functional.pad(down, (0, spare)) if spare else down
        weights = (panels.pack(router), panels.pack(gate_up, gated=True), panels.pack(filled))
        return cls(calls, weights, ExpertSizes(experts, hidden, filled.shape[2]), routing)

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, hidden] to the same; see `kernels.layers.Experts`."""
        sizes = self._sizes
        if not x.is_contiguous():
            self._calls.compute_otherwise()
            x = x.contiguous()
        tokens, hidden = x.shape
        if hidden != sizes.hidden or x.dtype != torch.bfloat16:
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected bfloat16 {sizes.hidden}")
        out = self._calls.empty(x.shape, x.dtype)
        panels = self._panels
        gated = panels.input_bytes * tokens * self._routing.top_k * sizes.intermediate
        sums = 4 * tokens * -(-sizes.hidden // panels.outputs) * panels.outputs
        scratch = scratch_for(self._calls, tokens, sizes.experts, self._routing, (gated, sums))
        widened = panels.widened(x)
        where = 0 if widened is None else widened.data_ptr()
        rows = (x.data_ptr(), tokens, hidden, hidden, where)
        own = (torch.get_num_threads(), *rows, out.data_ptr())
        weights = (*self._packed, sizes.intermediate)
        self._compute(EXPERTS.pack(*own, *scratch.routing, *weights, *scratch.others))
        return out
