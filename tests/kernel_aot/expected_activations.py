"""What the machine code of gated activations must be like."""

from __future__ import annotations

from functools import partial

from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.triton.rows.activations import gelu_mul, silu_mul

_ACTIVATIONS = {
    "silu": silu_mul,
    "gelu tanh": gelu_mul,
    "gelu exact": partial(gelu_mul, approximate="none"),
}

EXPECTED = [
    *(
        Expected(
            f"{name} {columns}",
            lambda gated=gated, c=columns: gated(meta(512, 2 * c)),
            {"_gate_kernel": Needs(64, wide_loads=2, wide_stores=1)},
            elsewhere=columns == 11008,
        )
        for name, gated in _ACTIVATIONS.items()
        for columns in (512, 768, 2048, 11008, 14336)
    ),
    Expected(
        "silu transposed",
        lambda: silu_mul(meta(512, 4096, strides=(1, 512)), meta(512, 2048, strides=(1, 512))),
        {"_gate_kernel": Needs(128)},
    ),
    Expected(
        "silu ragged",
        lambda: silu_mul(meta(512, 154)),
        {"_gate_kernel": Needs(64)},
        elsewhere=True,
    ),
]
