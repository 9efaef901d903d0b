"""Linear layers of 8 or 4 bits a weight in C.

Products are sums of whole numbers, so a token's results do not depend on what else is in the step.
Invariant: no pointer is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

import torch

from kernels.c.arguments import CODES, MULTIPLY_QUANTISED, PACK_WEIGHTS
from kernels.c.calls import Calls
from kernels.c.library import Library
from kernels.cpu.quantised import GROUP, check_group
from kernels.formats import Int4Group, Int8
from kernels.layers import LinearContext

STRIP = 32
"""Outputs that lie together; as in source/quantise.h."""


def widths(format: Int8 | Int4Group) -> tuple[int, int]:
    """Bits of a weight, and bytes of a rounded activation: 1 for int8, 2 for the finer rounding.

    Raises:
        UnsupportedDevice: there is no product of weights in groups of this size.
    """
    check_group(format)
    if isinstance(format, Int4Group):
        return 4, 2
    return 8, 1 if format.int8_activations else 2


def pack_weights(
    library: Library, weight: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round `weight` [outputs, inputs] to so many bits a number.

    Returns:
        The levels of all weights, bytes in the order in which they are read; and the scales:
        [strips, 32] float32 of 8 bits; of 4, [strips, groups, 32] bfloat16.

    Raises:
        ValueError: the weights are none of the dtypes that are computed in.
    """
    if weight.dtype not in CODES or weight.dim() != 2:
        raise ValueError(f"weights {tuple(weight.shape)} {weight.dtype}: expected rows")
    weight = weight.contiguous()
    outputs, inputs = weight.shape
    strips, groups = -(-outputs // STRIP), -(-inputs // GROUP)
    packed = torch.empty(strips * STRIP * groups * GROUP * bits // 8, dtype=torch.uint8)
    if bits == 8:
        scales = torch.empty(strips, STRIP)
    else:
        scales = torch.empty(strips, groups, STRIP, dtype=torch.bfloat16)
    where = scales.data_ptr()
    library.function("pack_weights")(
        PACK_WEIGHTS.pack(
            *(CODES[weight.dtype], torch.get_num_threads()),
            *(weight.data_ptr(), outputs, inputs, bits),
            *(packed.data_ptr(), where if bits == 8 else 0, where if bits == 4 else 0),
        )
    )
    return packed, scales


class QuantisedLinear:
    """A linear layer; see `kernels.layers.Linear`.

    Attributes:
        packed: the levels of all weights, bytes in the order in which they are read.
        scales: [strips, 32] float32 of 8 bits; of 4, [strips, groups, 32] bfloat16.
    """

    def __init__(
        self,
        calls: Calls,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: Int8 | Int4Group,
    ) -> None:
        """Quantise `weight` [outputs, inputs] with an optional `bias` [outputs].

        Raises:
            ValueError: the weights are none of the dtypes that are computed in.
        """
        self._calls = calls
        self._multiply = calls.function("multiply_quantised")
        bits, digits = widths(format)
        self.packed, self.scales = pack_weights(calls.library, weight, bits)
        self._outputs, self._inputs = weight.shape
        self._bias = None if bias is None else bias.float().contiguous()
        self._of_layer = (
            *(self._inputs, self._outputs, bits, self.packed.data_ptr(), self.scales.data_ptr()),
            *(0 if self._bias is None else self._bias.data_ptr(), digits),
        )
        # Without a workspace the function returns the size that it needs.
        one_token = (CODES[weight.dtype], 1, 0, 1, 0)
        self._token_bytes = calls.library.function("multiply_quantised")(
            MULTIPLY_QUANTISED.pack(*one_token, *self._of_layer, 0, 0)
        )

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
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
        if context is None:
            return out
        self._calls.compute_otherwise()
        return context.add(x, out)
