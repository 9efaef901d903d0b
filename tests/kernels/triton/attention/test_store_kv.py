"""Scattered rows against the oracle, on caches filled with NaN or with what nothing gives."""

from __future__ import annotations

import pytest
import torch

from kernels.attention_options import KvScales
from kernels.reference import attention as reference_attention
from kernels.triton.attention.store_kv import store_kv, store_kv_int8
from kernels.triton.configs import Config, forced

SLOTS = 80
SHAPES = [(1, 1, 64), (7, 2, 80), (33, 8, 128), (16, 3, 256), (5, 4, 32)]


def fused_rows(
    device: str, tokens: int, heads: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V as parts of a fused projection."""
    qkv = torch.randn(tokens, 3, heads, dim).to(dtype).to(device)
    return qkv[:, 1], qkv[:, 2]


def permuted_slots(device: str, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randperm(SLOTS)[:tokens].to(dtype).to(device)


def empty_caches(
    device: str, heads: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Caches whose heads do not lie together, full of what is never stored."""
    poison = -128 if dtype == torch.int8 else torch.nan
    both = torch.full((2, heads, SLOTS, dim), poison, dtype=dtype, device=device)
    return both[0].transpose(0, 1), both[1].transpose(0, 1)


def nan_scales(device: str, heads: int) -> KvScales:
    both = torch.full((2, SLOTS, heads), torch.nan, dtype=torch.float16, device=device)
    return KvScales(both[0], both[1])


def assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("slot_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("tokens", "heads", "dim"), SHAPES)
def test_rows_go_to_their_slots_and_nowhere_else(
    device: str,
    tokens: int,
    heads: int,
    dim: int,
    dtype: torch.dtype,
    slot_dtype: torch.dtype,
) -> None:
    k, v = fused_rows(device, tokens, heads, dim, dtype)
    slots = permuted_slots(device, tokens, slot_dtype)
    k_cache, v_cache = empty_caches(device, heads, dim, dtype)
    k_want, v_want = k_cache.clone(), v_cache.clone()
    k_want[slots.long()], v_want[slots.long()] = k, v

    store_kv(k, v, slots, k_cache, v_cache)

    assert_same(k_cache, k_want)
    assert_same(v_cache, v_want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("tokens", "heads", "dim"), SHAPES)
def test_int8_rows_and_scales_are_the_oracles(
    device: str, tokens: int, heads: int, dim: int, dtype: torch.dtype
) -> None:
    k, v = fused_rows(device, tokens, heads, dim, dtype)
    slots = permuted_slots(device, tokens, torch.int64)
    got = empty_caches(device, heads, dim, torch.int8), nan_scales(device, heads)
    want = empty_caches(device, heads, dim, torch.int8), nan_scales(device, heads)

    store_kv_int8(k, v, slots, *got[0], got[1])
    reference_attention.store_kv_int8(k, v, slots, *want[0], want[1])

    assert_same(got[1].k, want[1].k)
    assert_same(got[1].v, want[1].v)
    for rows, wanted in zip(got[0], want[0], strict=True):
        # A GPU's division and fused products may tip what lies halfway.
        apart = (rows.int() - wanted.int()).abs()
        assert apart.max() <= 1
        assert apart.float().mean() < 1e-3


def test_negative_slots_are_skipped(device: str) -> None:
    k, v = fused_rows(device, 4, 2, 64, torch.bfloat16)
    slots = torch.tensor([-1, 3, -1, 0], device=device)
    k_cache, v_cache = empty_caches(device, 2, 64, torch.bfloat16)
    int8, scales = empty_caches(device, 2, 64, torch.int8), nan_scales(device, 2)

    store_kv(k, v, slots, k_cache, v_cache)
    store_kv_int8(k, v, slots, *int8, scales)

    written = [0, 3]
    for cache, rows in ((k_cache, k), (v_cache, v)):
        assert torch.equal(cache[written], rows[[3, 1]])
        assert cache[1].isnan().all()
        assert cache[4:].isnan().all()
    for scale in (scales.k, scales.v):
        assert (~scale.isnan()).all(dim=1).nonzero().flatten().tolist() == written
    assert all(
        ((cache != -128).flatten(1).any(1).nonzero().flatten().tolist()) == written
        for cache in int8
    )


def test_rows_past_the_last_block_are_not_read(device: str) -> None:
    k, v = fused_rows(device, 5, 3, 32, torch.float16)
    slots = permuted_slots(device, 5, torch.int64)
    caches = empty_caches(device, 3, 32, torch.float16)

    for block in (1, 2, 16, 64):
        with forced("store_kv", Config({"BLOCK_ROWS": block})):
            store_kv(k, v, slots, *caches)

        assert_same(caches[0][slots], k)
        assert int(caches[1].isnan().any(2).any(1).sum()) == SLOTS - 5


def test_extreme_rows_survive_int8(device: str) -> None:
    k = torch.zeros(4, 1, 32, device=device)
    k[0, 0, 0] = 1e-9  # too small for a scale in float16
    k[1, 0] = -6e4
    k[2, 0] = torch.linspace(-3e-5, 3e-5, 32)
    caches, scales = empty_caches(device, 1, 32, torch.int8), nan_scales(device, 1)

    store_kv_int8(k, k, torch.arange(4, device=device), *caches, scales)

    restored = reference_attention.dequantise(caches[0][:4], scales.k[:4])
    assert (restored[[0, 3]] == 0).all()
    torch.testing.assert_close(restored[1], k[1].double(), rtol=1e-3, atol=0)
    assert (restored[2] - k[2].double()).abs().max() < 3e-5 * 0.2
    assert (caches[0][:4] > -128).all()


def test_no_tokens_write_nothing(device: str) -> None:
    k, v = fused_rows(device, 0, 2, 32, torch.bfloat16)
    caches = empty_caches(device, 2, 32, torch.bfloat16)

    store_kv(k, v, torch.empty(0, dtype=torch.int64, device=device), *caches)

    assert caches[0].isnan().all()


def test_tensors_that_disagree_are_refused(device: str) -> None:
    k, v = fused_rows(device, 2, 1, 64, torch.bfloat16)
    caches = empty_caches(device, 1, 64, torch.bfloat16)
    int8, scales = empty_caches(device, 1, 64, torch.int8), nan_scales(device, 1)
    slots = torch.arange(2, device=device)

    with pytest.raises(ValueError, match=r"slots \(1,\)"):
        store_kv(k, v, slots[:1], *caches)
    with pytest.raises(ValueError, match=r"v \(2, 1, 32\)"):
        store_kv(k, v[..., :32], slots, *caches)
    with pytest.raises(ValueError, match=r"expected torch\.bfloat16"):
        store_kv(k, v, slots, *int8)
    with pytest.raises(ValueError, match=r"expected torch\.int8"):
        store_kv_int8(k, v, slots, *caches, scales)
    with pytest.raises(ValueError, match="scales of v"):
        store_kv_int8(k, v, slots, *int8, KvScales(scales.k, scales.v.float()))
