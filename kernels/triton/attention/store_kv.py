"""Scatter new keys and values into the token-level KV cache, as they are or rounded to int8.

A row is one head of one token, the largest piece that lies together in the cache; a program moves
a block of rows of K and V both. Invariant: only the rows of the given slots are written.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.attention_options import KvScales
from kernels.triton.attention.checks import check_caches
from kernels.triton.configs import choose


def store_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    """Write row `i` of `k` and `v` into cache row `slots[i]`, in place.

    Args:
        k, v: [tokens, kv_heads, head_dim], any strides, so parts of a fused QKV need no copy.
        slots: [tokens] int32 or int64, distinct; a negative one skips its row, as the padding of
            a CUDA graph wants it.
        k_cache, v_cache: [slots, kv_heads, head_dim] of k's dtype, rows contiguous,
            strides alike.

    Raises:
        ValueError: shapes, strides or types disagree.
    """
    _store(k, v, slots, k_cache, v_cache, None)


def store_kv_int8(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    scales: KvScales,
) -> None:
    """As `store_kv`, each row rounded to int8 by its own scale, a 127th of its greatest value.

    With scales a row takes head_dim + 2 bytes: at head_dim 128, 1.97 times as many fit as of
    16 bits. A row whose scale is zero in float16 is stored as zeros.

    Args:
        k, v, slots: as for `store_kv`.
        k_cache, v_cache: [slots, kv_heads, head_dim] int8, rows contiguous, strides alike.
        scales: where the scales go.

    Raises:
        ValueError: shapes, strides or types disagree.
    """
    _store(k, v, slots, k_cache, v_cache, scales)


def _store(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    scales: KvScales | None,
) -> None:
    check_caches(k_cache, v_cache, scales, k.dtype)
    tokens, heads, head_dim = k.shape
    if v.shape != k.shape or v.dtype != k.dtype or k_cache.shape[1:] != k.shape[1:]:
        raise ValueError(
            f"k {tuple(k.shape)} {k.dtype}, v {tuple(v.shape)} {v.dtype}, "
            f"caches {tuple(k_cache.shape)}: expected equal [*, kv_heads, head_dim]"
        )
    if slots.shape != (tokens,):
        raise ValueError(f"slots {tuple(slots.shape)}: expected [{tokens}]")
    block_d = triton.next_power_of_2(head_dim)
    config = choose("store_kv", kv_bits=8 * k_cache.dtype.itemsize, head_dim=block_d)
    if tokens:
        _store_kv_kernel[(triton.cdiv(tokens * heads, config.tiles["BLOCK_ROWS"]),)](
            k, *k.stride(), v, *v.stride(), slots, slots.stride(0), tokens * heads,
            k_cache, v_cache, k_cache.stride(0), k_cache.stride(1),
            *((scales.k, scales.v, *scales.k.stride()) if scales else (None, None, 0, 0)),
            KV_HEADS=heads, HEAD_DIM=head_dim, BLOCK_D=block_d, **config.options(),
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["slots_ptr"])
def _store_kv_kernel(
    k_ptr, k_stride_t, k_stride_h, k_stride_d,
    v_ptr, v_stride_t, v_stride_h, v_stride_d,
    slots_ptr, slots_stride, rows,
    k_cache_ptr, v_cache_ptr, cache_stride_s, cache_stride_h,
    k_scale_ptr, v_scale_ptr, scale_stride_s, scale_stride_h,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token, head = row // KV_HEADS, row % KV_HEADS
    # int64: slot * stride passes 2**31 in a cache of 2**21 slots x 8 heads x 128 dims.
    slot = tl.load(slots_ptr + token * slots_stride, mask=row < rows, other=-1).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    kept = slot >= 0
    in_row = kept[:, None] & (dims < HEAD_DIM)[None, :]
    k_from = (token * k_stride_t + head * k_stride_h)[:, None] + dims[None, :] * k_stride_d
    v_from = (token * v_stride_t + head * v_stride_h)[:, None] + dims[None, :] * v_stride_d
    to = (slot * cache_stride_s + head * cache_stride_h)[:, None] + dims[None, :]
    k = tl.load(k_ptr + k_from, mask=in_row, other=0)
    v = tl.load(v_ptr + v_from, mask=in_row, other=0)
    if k_scale_ptr is not None:
        k, k_scale = _quantise(k)
        v, v_scale = _quantise(v)
        scale_to = slot * scale_stride_s + head * scale_stride_h
        tl.store(k_scale_ptr + scale_to, k_scale, mask=kept)
        tl.store(v_scale_ptr + scale_to, v_scale, mask=kept)
    tl.store(k_cache_ptr + to, k, mask=in_row)
    tl.store(v_cache_ptr + to, v, mask=in_row)


@triton.jit
def _quantise(rows):
    """Round rows to int8: the rounded rows and their scales, float16."""
    rows = rows.to(tl.float32)
    scales = (tl.max(tl.abs(rows), 1) / 127).to(tl.float16)
    factors = tl.where(scales > 0, 1 / scales.to(tl.float32), 0)
    # A scale that float16 rounded down would let the greatest value pass 127.
    whole = tl.floor(rows * factors[:, None] + 0.5)
    return tl.clamp(whole, -127.0, 127.0).to(tl.int8), scales
