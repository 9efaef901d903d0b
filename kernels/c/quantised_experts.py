"""Experts with weights of 8 or 4 bits, in C: one call computes a layer.

The router is not quantised. A token's results do not depend on what else is in the step. Invariant:
no pointer is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional

from kernels.c.arguments import CODES, MULTIPLY_QUANTISED, QUANTISED_EXPERTS
from kernels.c.calls import Calls
from kernels.c.quantised import STRIP, pack_weights, widths
from kernels.c.routing import Scratch, scratch_for
from kernels.formats import Int4Group, Int8
from kernels.ops import Routing

HALF_STRIP = STRIP // 2
"""Gates that lie together, before the ups that belong to them."""


class QuantisedExperts:
    """One layer's experts; a token's rows go through its own only.

    Attributes:
        gate_up: levels and scales of all experts as `pack_weights` gives them, one after the other.
        down: the same of the projections back.
    """

    def __init__(
        self,
        calls: Calls,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        routing: Routing,
        format: Int8 | Int4Group,
    ) -> None:
        """Quantise a layer's experts.

        Args:
            calls: that compute.
            router: as `Operations.pack_experts` takes it.
            gate_up, down: the same, of the router's dtype.
            routing: how tokens choose among the experts.
            format: of all but the router.

        Raises:
            ValueError: the weights are none of the dtypes that are computed in.
        """
        bits, digits = widths(format)
        self._calls = calls
        self._compute = calls.function("quantised_experts")
        self._routing = routing
        self._router = router.contiguous()
        self._experts, self._hidden, intermediate = down.shape
        self.gate_up = _pack_all(calls, (_with_ups(own) for own in gate_up), bits)
        self.down = _pack_all(calls, down, bits)
        tensors = (self._router, *self.gate_up, *self.down)
        self._of_layer = (*(tensor.data_ptr() for tensor in tensors), bits, digits)
        self._sizes = (self._hidden, intermediate)
        self._gated = -(-intermediate // HALF_STRIP) * HALF_STRIP
        self._code_bytes = [_code_bytes(calls, inputs, bits, digits) for inputs in self._sizes]

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, hidden] to the same; see `kernels.layers.Experts`.

        Raises:
            ValueError: the rows are not such as the layer takes.
        """
        if x.shape[1] != self._hidden or x.dtype != self._router.dtype:
            expected = f"expected {self._router.dtype} {self._hidden}"
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: {expected}")
        if not x.is_contiguous():
            self._calls.compute_otherwise()
            x = x.contiguous()
        out = self._calls.empty(x.shape, x.dtype)
        scratch = self._scratch(x.shape[0])
        self._compute(
            QUANTISED_EXPERTS.pack(
                *(CODES[x.dtype], torch.get_num_threads(), x.data_ptr(), out.data_ptr()),
                *(*self._sizes, *scratch.routing, *self._of_layer, *scratch.others),
            )
        )
        return out

    def _scratch(self, tokens: int) -> Scratch:
        rows = tokens * self._routing.top_k
        codes, gated_codes = (rows * bytes_ for bytes_ in self._code_bytes)
        sums = 4 * tokens * -(-self._hidden // STRIP) * STRIP
        others = (4 * rows * self._gated, sums, codes, gated_codes)
        return scratch_for(self._calls, tokens, self._experts, self._routing, others)


def _with_ups(gate_up: torch.Tensor) -> torch.Tensor:
    """[2 * intermediate, inputs], gate rows before up rows, as strips of half gates, half ups."""
    rows, inputs = gate_up.shape
    halves = gate_up.view(2, rows // 2, inputs)
    filled = functional.pad(halves, (0, 0, 0, -(rows // 2) % HALF_STRIP))
    strips = filled.view(2, -1, HALF_STRIP, inputs).transpose(0, 1)
    return strips.reshape(-1, inputs)


def _pack_all(
    calls: Calls, weights: Iterable[torch.Tensor], bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    packed, scales = zip(*(pack_weights(calls.library, own, bits) for own in weights), strict=True)
    return torch.stack(packed), torch.stack(scales)


def _code_bytes(calls: Calls, inputs: int, bits: int, digits: int) -> int:
    """Bytes that one row of activations becomes."""
    one_row = (CODES[torch.float32], 1, 0, 1, 0, inputs, 0, bits, 0, 0, 0, digits, 0, 0)
    # Without a workspace the function returns the size that it needs.
    return calls.library.function("multiply_quantised")(MULTIPLY_QUANTISED.pack(*one_row))
