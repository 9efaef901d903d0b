"""Rotary embedding of queries and keys in one launch, in place.

A program rotates some heads of one token, of the queries or of the keys. Invariant: angles and
products are float32 and a result is rounded once; dimensions past the table's are left alone.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose


def rope(
    q: torch.Tensor,
    k: torch.Tensor | None,
    table: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """Rotate every head by the angles of its token's position, in place.

    Dimension `i` is paired with `i + rotary_dim / 2`; models that pair neighbours have their
    weights permuted when they are read.

    Angles past `rotary_dim / 2` up to a power of two, and heads past the last, are masked.

    Args:
        q: [tokens, heads, head_dim] bfloat16, float16 or float32, any strides.
        k: [tokens, kv_heads, head_dim], any strides; None where `q` holds the keys as well.
        table: [context, rotary_dim] float32, rows contiguous: cosines, then sines of each
            position's angles, scaled or not. Only the first `rotary_dim` of `head_dim` turn.
        positions: [tokens] int64 contiguous, rows of `table`; not checked.

    Raises:
        ValueError: shapes disagree.

    Source: Su et al. 2021, section 3.4.2; the pairing of halves is GPT-NeoX's.
    """
    tokens, heads, head_dim = q.shape
    rotary_dim = table.shape[1]
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise ValueError(f"a table of {rotary_dim} dimensions cannot turn heads of {head_dim}")
    if k is not None and (k.shape[0], k.shape[2]) != (tokens, head_dim):
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}")
    if positions.shape != (tokens,):
        raise ValueError(f"{tokens} tokens, positions {tuple(positions.shape)}")
    if tokens == 0:
        return
    kv_heads = 0 if k is None else k.shape[1]
    block_angles = triton.next_power_of_2(rotary_dim // 2)
    config = choose("rope", rotary_dim=2 * block_angles, heads=heads + kv_heads)
    block_heads = config.tiles["BLOCK_HEADS"]
    blocks = triton.cdiv(heads, block_heads) + triton.cdiv(kv_heads, block_heads)
    _rope_kernel[(tokens, blocks)](
        q, *q.stride(),
        k, *((0, 0, 0) if k is None else k.stride()),
        table, table.stride(0), positions,
        HEADS=heads, KV_HEADS=kv_heads, ANGLES=rotary_dim // 2,
        BLOCK_ANGLES=block_angles, **config.options(),
    )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=["positions_ptr"])
def _rope_kernel(
    q_ptr, q_stride_t, q_stride_h, q_stride_d,
    k_ptr, k_stride_t, k_stride_h, k_stride_d,
    table_ptr, table_stride, positions_ptr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_ANGLES: tl.constexpr,
):  # fmt: skip
    # int64, as all that is multiplied by a stride: tokens * heads * head_dim may pass 2**31.
    token = tl.program_id(0).to(tl.int64)
    row_ptr = table_ptr + tl.load(positions_ptr + token) * table_stride
    angle = tl.arange(0, BLOCK_ANGLES)
    cos = tl.load(row_ptr + angle, mask=angle < ANGLES, other=0.0)[None, :]
    sin = tl.load(row_ptr + ANGLES + angle, mask=angle < ANGLES, other=0.0)[None, :]
    Q_BLOCKS: tl.constexpr = (HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    block = tl.program_id(1)
    if block < Q_BLOCKS:
        _rotate(
            q_ptr + token * q_stride_t, q_stride_h, q_stride_d, block, cos, sin,
            HEADS, ANGLES, BLOCK_HEADS, BLOCK_ANGLES,
        )  # fmt: skip
    elif KV_HEADS > 0:
        _rotate(
            k_ptr + token * k_stride_t, k_stride_h, k_stride_d, block - Q_BLOCKS, cos, sin,
            KV_HEADS, ANGLES, BLOCK_HEADS, BLOCK_ANGLES,
        )  # fmt: skip


@triton.jit
def _rotate(
    token_ptr, stride_h, stride_d, block, cos, sin,
    HEADS: tl.constexpr, ANGLES: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_ANGLES: tl.constexpr,
):  # fmt: skip
    """Turn `BLOCK_HEADS` heads of one token."""
    head = (block * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)).to(tl.int64)[:, None]
    dim = tl.arange(0, BLOCK_ANGLES).to(tl.int64)[None, :]
    inside = (head < HEADS) & (dim < ANGLES)
    tile_ptr = token_ptr + head * stride_h
    first_ptr = tile_ptr + dim * stride_d
    second_ptr = tile_ptr + (dim + ANGLES) * stride_d
    first = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(second_ptr, mask=inside, other=0.0).to(tl.float32)
    kind = token_ptr.dtype.element_ty
    tl.store(first_ptr, (first * cos - second * sin).to(kind), mask=inside)
    tl.store(second_ptr, (second * cos + first * sin).to(kind), mask=inside)
