"""Weights of 8 and 4 bits, rounded and laid out in C as its products read them.

Invariant: no pointer is passed on before dtype, shape and strides are known to be right.
"""

from __future__ import annotations

import torch

from kernels.c.arguments import CODES, PACK_WEIGHTS
from kernels.c.library import Library
from kernels.cpu.quantised import GROUP, check_group
from kernels.formats import Int4Group, Int8

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
