"""What the machine code of root mean square norms must be like."""

from __future__ import annotations

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.triton.rows.rms_norm import norm_heads, rms_norm

# Two rows read and two written, sixteen bytes a thread; eight warps or more share a register file.
_ROW = Needs(registers=128, wide_loads=3, wide_stores=2)


def _rows(hidden: int, with_residual: bool, dtype: torch.dtype = torch.bfloat16) -> None:
    x, weight = meta(512, hidden, dtype=dtype), meta(hidden, dtype=dtype)
    rms_norm(x, weight, 1e-5, meta(512, hidden, dtype=dtype) if with_residual else None)


def _heads(heads: int, head_dim: int) -> None:
    fused = meta(512, heads + 8, head_dim)
    norm_heads(fused[:, :heads], meta(heads, head_dim), 1e-6)


EXPECTED = [
    *(
        Expected(
            f"rms_norm {hidden}, residual",
            lambda h=hidden: _rows(h, True),
            {"_rms_norm_kernel": _ROW},
            elsewhere=hidden in (4096, 20480),
        )
        for hidden in (512, 1024, 2048, 2880, 4096, 5120, 8192, 16384, 20480)
    ),
    *(
        Expected(
            f"rms_norm {hidden}",
            lambda h=hidden: _rows(h, False),
            {"_rms_norm_kernel": Needs(128, wide_loads=2, wide_stores=1)},
        )
        for hidden in (2048, 4096, 8192, 16384)
    ),
    Expected(
        "rms_norm float32",
        lambda: _rows(8192, True, torch.float32),
        {"_rms_norm_kernel": _ROW},
    ),
    Expected(
        "rms_norm transposed",
        lambda: rms_norm(meta(512, 4096, strides=(1, 512)), meta(4096), 1e-5),
        {"_rms_norm_kernel": Needs(128)},
    ),
    Expected(
        "norm_heads transposed",
        lambda: norm_heads(meta(512, 8, 128, strides=(1, 65536, 512)), meta(8, 128), 1e-6),
        {"_norm_heads_kernel": Needs(128)},
    ),
    Expected(
        "rms_norm ragged", lambda: _rows(77, True), {"_rms_norm_kernel": Needs(64)}, elsewhere=True
    ),
    *(
        Expected(
            f"norm_heads {heads}x{head_dim}",
            lambda h=heads, d=head_dim: _heads(h, d),
            {"_norm_heads_kernel": Needs(64, wide_loads=2, wide_stores=1)},
            elsewhere=head_dim == 128,
        )
        for heads, head_dim in ((40, 128), (36, 64), (5, 256))
    ),
]
