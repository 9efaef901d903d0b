"""The oracle of attention with options, against PyTorch's own attention with an explicit mask."""

from __future__ import annotations

import pytest
import torch
from support.kernels.attention_scenes import options_of, scene
from torch.nn import functional

from kernels.attention_options import AttentionOptions, KvScales
from kernels.reference import attention as reference_attention
from kernels.reference.operations import reference

HEADS, QUERIES, LENGTH = 4, 5, 23


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randn(QUERIES, HEADS, 16, dtype=torch.float64)
    k, v = torch.randn(2, LENGTH, 2, 16, dtype=torch.float64)
    return q, k, v


def distances() -> torch.Tensor:
    return torch.arange(LENGTH - QUERIES, LENGTH)[:, None] - torch.arange(LENGTH)[None, :]


def by_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    q, k, v = (rows.transpose(0, 1).unsqueeze(0) for rows in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True)
    return out[0].transpose(0, 1)


def causal() -> torch.Tensor:
    return torch.zeros(QUERIES, LENGTH).double().masked_fill(distances() < 0, -torch.inf)


def test_without_options_it_is_the_models_oracle() -> None:
    step = scene("cpu", [(1, 5), (3, 9), (4, 4)], dtype=torch.float32)
    plan = reference.plan_attention(step.chunks, step.shape, torch.float32)

    want = reference.attention(step.q, step.k_cache, step.v_cache, plan)

    torch.testing.assert_close(step.expected().float(), want)


def test_chunks_without_positions_give_zeros() -> None:
    step = scene("cpu", [(1, 0), (1, 3)], dtype=torch.float32)

    assert (step.expected()[0] == 0).all()
    assert (step.expected()[1] != 0).all()


def test_a_window_hides_what_is_as_far_as_it_is_wide() -> None:
    q, k, v = rows()

    out = reference_attention.attend(q, k, v, 0.3, AttentionOptions(window=7))

    hidden = causal().masked_fill(distances() >= 7, -torch.inf)
    torch.testing.assert_close(out, by_mask(q, k, v, hidden))


def test_alibi_lowers_scores_with_distance() -> None:
    q, k, v = rows()
    options = options_of("cpu", HEADS, "alibi")
    assert options.alibi_slopes is not None

    out = reference_attention.attend(q, k, v, 0.3, options)

    lowered = causal() - options.alibi_slopes.double()[:, None, None] * distances()
    torch.testing.assert_close(out, by_mask(q, k, v, lowered))


def test_a_sink_is_one_more_key_whose_value_is_zero() -> None:
    q, k, v = rows()
    options = options_of("cpu", HEADS, "sinks")
    assert options.sinks is not None

    out = reference_attention.attend(q, k, v, 0.3, options)

    nothing = torch.zeros(1, 2, 16, dtype=torch.float64)
    sinks = options.sinks.double()[:, None, None].expand(-1, QUERIES, 1)
    mask = torch.cat((causal().expand(HEADS, -1, -1), sinks), dim=-1)
    want = by_mask(q, torch.cat((k, nothing)), torch.cat((v, nothing)), mask)
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_soft_cap_bounds_large_scores_and_leaves_small_ones(scale: float) -> None:
    q, k, v = rows()

    out = reference_attention.attend(q, k, v, scale, AttentionOptions(soft_cap=2.0))

    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, dim=1))
    capped = torch.where(scores > 0, 2.0, -2.0) if scale > 1 else scores * scale
    want = by_mask(torch.zeros_like(q), k, v, capped + causal())
    torch.testing.assert_close(out, want, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_int8_rows_come_back_within_half_a_step(dtype: torch.dtype) -> None:
    step = torch.randn(9, 3, 64).to(dtype)

    whole, scales = reference_attention.quantise(step)

    off = (reference_attention.dequantise(whole, scales) - step.double()).abs()
    assert (off <= 0.5001 * scales.double().unsqueeze(-1) + 2e-3 * step.double().abs()).all()
    assert (whole.abs().amax(dim=-1) >= 126).all()


def test_quantised_rows_are_attended_to_through_their_scales() -> None:
    exact = scene("cpu", [(3, 40)], dtype=torch.float32)
    k, k_scales = reference_attention.quantise(exact.k_cache)
    v, v_scales = reference_attention.quantise(exact.v_cache)

    out = reference_attention.attend_chunks(
        exact.q, (k, v), exact.chunks, exact.shape, AttentionOptions(), KvScales(k_scales, v_scales)
    )

    torch.testing.assert_close(out, exact.expected().float(), rtol=0, atol=3e-2)
