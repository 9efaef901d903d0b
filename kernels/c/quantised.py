"""Linear layers of 8 or 4 bits a weight in C, and the sets of operations that have them.

Products are sums of whole numbers, so a token's results do not depend on what else is in the step.
Invariant: no pointer is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from kernels.c.arguments import CODES, MULTIPLY_QUANTISED
from kernels.c.calls import Calls, CapturedCalls
from kernels.c.library import Library
from kernels.c.operations import NativeOperations
from kernels.c.packing import pack_weights
from kernels.c.quantised_experts import QuantisedExperts
from kernels.cpu.quantised import Quantisation, QuantisedOperations, pack_rounded
from kernels.ops import Operations, Routing


class QuantisedLinear:
    """A linear layer; see `kernels.ops.Linear`.

    Attributes:
        packed: the levels of all weights, bytes in the order in which they are read.
        scales: [strips, 32] float32 of 8 bits; of 4, [strips, groups, 32] bfloat16.
    """

    def __init__(
        self,
        calls: Calls,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        quantisation: Quantisation,
    ) -> None:
        """Quantise `weight` [outputs, inputs] with an optional `bias` [outputs].

        Raises:
            ValueError: the weights are none of the dtypes that are computed in.
        """
        self._calls = calls
        self._multiply = calls.function("multiply_quantised")
        bits, digits = quantisation.weight_bits, quantisation.activation_bytes
        self.packed, self.scales = pack_weights(calls.library, weight, bits)
        self._outputs, self._inputs = weight.shape
        self._bias = None if bias is None else bias.float().contiguous()
        self._of_layer = (
            *(self._inputs, self._outputs, bits, self.packed.data_ptr(), self.scales.data_ptr()),
            *(0 if self._bias is None else self._bias.data_ptr(), digits),
        )
        # Without a workspace the function tells how large it has to be.
        one_token = (CODES[weight.dtype], 1, 0, 1, 0)
        self._token_bytes = calls.library.function("multiply_quantised")(
            MULTIPLY_QUANTISED.pack(*one_token, *self._of_layer, 0, 0)
        )

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs].

        Raises:
            ValueError: the rows are not such as the layer takes.
        """
        tokens, inputs = x.shape
        if inputs != self._inputs or x.dtype not in CODES:
            raise ValueError(f"rows {tuple(x.shape)} {x.dtype}: expected {self._inputs} wide")
        if x.stride(1) != 1:
            self._calls.compute_otherwise()
            x = x.contiguous()
        out = self._calls.empty((tokens, self._outputs), x.dtype)
        own = (CODES[x.dtype], torch.get_num_threads(), x.data_ptr(), tokens, x.stride(0))
        if tokens:
            workspace = self._calls.empty((tokens * self._token_bytes,), torch.uint8)
            results = (out.data_ptr(), workspace.data_ptr())
            self._multiply(MULTIPLY_QUANTISED.pack(*own, *self._of_layer, *results))
        return out


class NativeQuantisedOperations(QuantisedOperations):
    """The compiled set, but for its linear layers and experts, which are quantised ones in C."""

    def __init__(self, base: NativeOperations, quantisation: Quantisation) -> None:
        """Take what is not quantised from `base`."""
        self._calls = base.calls
        self._quantisation = quantisation
        super().__init__(
            base, partial(QuantisedLinear, base.calls, quantisation=quantisation), torch.float32
        )

    def capture(  # type: ignore[override]  # all of this set is in C
        self, compute: Callable[[], torch.Tensor]
    ) -> CapturedCalls | None:
        """See `Operations.capture`."""
        return self._calls.capture(compute)

    def pack_experts(  # type: ignore[override]  # and `moe` takes these, throughout
        self, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
    ) -> QuantisedExperts:
        """See `Operations.pack_experts`."""
        return QuantisedExperts(self._calls, (router, gate_up, down), routing, self._quantisation)

    def moe(  # type: ignore[override]
        self, x: torch.Tensor, experts_: QuantisedExperts
    ) -> torch.Tensor:
        """See `Operations.moe`."""
        return experts_(x)


def quantised(
    base: Operations, dtype: torch.dtype, quantisation: Quantisation, library: Library | None
) -> Operations:
    """The operations of `base` with quantised weights.

    Args:
        base: the set that serves `dtype` on this CPU.
        dtype: what the model computes in.
        quantisation: of linear layers and experts.
        library: what multiplies; None where PyTorch does, which saves neither memory nor time.
    """
    if isinstance(base, NativeOperations):
        return NativeQuantisedOperations(base, quantisation)
    routing = torch.float64 if dtype == torch.float32 else torch.float32
    if library is None:
        plain = partial(pack_rounded, quantisation=quantisation, pack_linear=base.pack_linear)
        return QuantisedOperations(base, plain, routing)
    ours = partial(QuantisedLinear, Calls(library), quantisation=quantisation)
    return QuantisedOperations(base, ours, routing)
