"""Machine code that is expected of rotary embedding."""

from __future__ import annotations

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.triton.rows.rope import rope


def _turn(head_dim: int, rotary_dim: int, fused: bool = False) -> None:
    qkv = meta(512, 48, head_dim)
    table = meta(4096, rotary_dim, dtype=torch.float32)
    positions = meta(512, dtype=torch.int64)
    q, k = (qkv[:, :40], None) if fused else (qkv[:, :32], qkv[:, 32:40])
    rope(q, k, table, positions)


def _turn_transposed() -> None:
    q = meta(512, 8, 128, strides=(1, 65536, 512))
    rope(q, q, meta(4096, 128, dtype=torch.float32), meta(512, dtype=torch.int64))


EXPECTED = [
    *(
        Expected(
            f"rope {rotary_dim} of {head_dim}",
            lambda d=head_dim, r=rotary_dim: _turn(d, r),
            {"_rope_kernel": Needs(64, wide_loads=4, wide_stores=4)},
            elsewhere=rotary_dim == 128,
        )
        for head_dim, rotary_dim in ((128, 128), (128, 64), (256, 256))
    ),
    Expected(
        "rope of queries and keys in one tensor",
        lambda: _turn(128, 128, fused=True),
        {"_rope_kernel": Needs(64, wide_loads=4, wide_stores=2)},
    ),
    Expected("rope transposed", _turn_transposed, {"_rope_kernel": Needs(128)}),
    Expected(
        "rope ragged",
        lambda: _turn(80, 22),
        {"_rope_kernel": Needs(64)},
        elsewhere=True,
    ),
]
