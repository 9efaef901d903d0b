"""What row operations must move, as docs/kernels.md counts it."""

from __future__ import annotations

import pytest

from bench.kernels.cases.all_cases import case_named
from bench.kernels.cases.case import Place

T, B = 8192, 2


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("rms_norm, residual: 8,192 x 4,096", 4 * B * T * 4096),
        ("layer_norm, residual: 8,192 x 4,096", 4 * B * T * 4096),
        ("norm_heads: 8,192 tokens, 40 x 128", 2 * B * T * 40 * 128),
        ("rope: 8,192 tokens, 40 x 128", 2 * B * T * 40 * 128 + 4 * T * 128),
        ("silu_mul: 8,192 x 14,336", 3 * B * T * 14_336),
        ("gelu_mul: 8,192 x 14,336", 3 * B * T * 14_336),
        # K and V are read in 16 bits and written, in 16 bits or in 8 with a scale, at their slots.
        ("store_kv: 16,384 tokens, 8 x 128", 2 * T * (2 * 8 * 128 * (B + B) + 8)),
        ("store_kv int8: 16,384 tokens, 8 x 128", 2 * T * (2 * 8 * (128 * (B + 1) + 2) + 8)),
        ("sampling: 64 x 151,936, top-p 0.9", 4 * 64 * 151_936),
        ("log_probabilities: 64 x 151,936, 20 alternatives", 4 * 64 * 151_936),
    ],
)
def test_bytes_of_a_case(name: str, moved: int) -> None:
    trial = case_named(name).make(Place("meta"))

    assert trial.moved_bytes == moved
    assert trial.flops == 0
