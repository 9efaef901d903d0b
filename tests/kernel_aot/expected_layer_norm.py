"""What the machine code of layer norms must be like."""

from __future__ import annotations

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.triton.rows.layer_norm import layer_norm


def _rows(hidden: int, with_residual: bool, dtype: torch.dtype = torch.bfloat16) -> None:
    x, weight = meta(512, hidden, dtype=dtype), meta(hidden, dtype=dtype)
    residual = meta(512, hidden, dtype=dtype) if with_residual else None
    layer_norm(x, weight, weight, 1e-5, residual)


EXPECTED = [
    *(
        Expected(
            f"layer_norm {hidden}, residual",
            lambda h=hidden: _rows(h, True),
            {"_layer_norm_kernel": Needs(128, wide_loads=4, wide_stores=2)},
            elsewhere=hidden in (4096, 20480),
        )
        for hidden in (768, 1024, 2048, 4096, 8192, 16384, 20480)
    ),
    Expected(
        "layer_norm 4096",
        lambda: _rows(4096, False),
        {"_layer_norm_kernel": Needs(128, wide_loads=3, wide_stores=1)},
    ),
    Expected(
        "layer_norm float32",
        lambda: _rows(4096, True, torch.float32),
        {"_layer_norm_kernel": Needs(128, wide_loads=4, wide_stores=2)},
    ),
    Expected(
        "layer_norm transposed",
        lambda: layer_norm(meta(512, 4096, strides=(1, 512)), meta(4096), None, 1e-5),
        {"_layer_norm_kernel": Needs(128)},
    ),
    Expected(
        "layer_norm ragged",
        lambda: _rows(77, True),
        {"_layer_norm_kernel": Needs(64)},
        elsewhere=True,
    ),
]
