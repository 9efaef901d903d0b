"""Linear layers of 8 or 4 bits a weight, in C.

Products are sums of whole numbers, so a token's results do not depend on what else is in the step.
Invariant: no pointer is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

import torch

from kernels.cpu.native.arguments import CODES, MULTIPLY_QUANTISED, PACK_WEIGHTS
from kernels.cpu.native.calls import Calls
from kernels.cpu.native.library import Library
from kernels.cpu.native.operations import NativeOperations
from kernels.cpu.quantised import GROUP, Quantisation, QuantisedOperations, pack_rounded
from kernels.ops import Linear, Operations

STRIP = 32
"""Outputs that lie together; as in source/quantise.h."""


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
        if weight.dtype not in CODES or weight.dim() != 2:
            raise ValueError(f"weights {tuple(weight.shape)} {weight.dtype}: expected rows")
        self._calls = calls
        self._multiply = calls.function("multiply_quantised")
        self._bytes = quantisation.activation_bytes
        weight = weight.contiguous()
        outputs, self._inputs = weight.shape
        bits = quantisation.weight_bits
        strips, groups = -(-outputs // STRIP), -(-self._inputs // GROUP)
        size = strips * STRIP * groups * GROUP * bits // 8
        self.packed = torch.empty(size, dtype=torch.uint8)
        if bits == 8:
            self.scales = torch.empty(strips, STRIP)
        else:
            self.scales = torch.empty(strips, groups, STRIP, dtype=torch.bfloat16)
        scales = self.scales.data_ptr()
        calls.library.function("pack_weights")(
            PACK_WEIGHTS.pack(
                *(CODES[weight.dtype], torch.get_num_threads()),
                *(weight.data_ptr(), outputs, self._inputs, bits),
                *(self.packed.data_ptr(), scales if bits == 8 else 0, scales if bits == 4 else 0),
            )
        )
        self._bias = None if bias is None else bias.float().contiguous()
        self._outputs = outputs
        self._of_layer = (
            *(self._inputs, outputs, bits, self.packed.data_ptr(), scales),
            *(0 if self._bias is None else self._bias.data_ptr(), self._bytes),
        )
        # Without a workspace the function tells how large it has to be.
        one_token = (CODES[weight.dtype], 1, 0, 1, 0)
        self._token_bytes = self._multiply(
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

    calls = base.calls if isinstance(base, NativeOperations) else None
    if calls is None and library is not None:
        calls = Calls(library)

    def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        if calls is None:
            return pack_rounded(weight, bias, quantisation, base.pack_linear)
        return QuantisedLinear(calls, weight, bias, quantisation)

    routing = torch.float64 if dtype == torch.float32 else torch.float32
    return QuantisedOperations(base, pack_linear, routing)
