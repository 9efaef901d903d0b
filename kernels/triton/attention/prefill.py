"""Attention of prompt chunks over token-level KV, without padding.

A tile is `BLOCK_M` rows: the query heads of one key/value head, of as many tokens as fit. So the
heads of a group share the keys they load, and few keys are loaded only to be masked. A table,
made once a step, says which tokens each tile has.

Invariant: only the slots of a chunk's own positions are read, and every query of the chunks is
written once.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from kernels.attention_options import AttentionOptions, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.triton.attention.block import LOG2E, attend_block, load_scales, no_keys_yet
from kernels.triton.attention.checks import check_attention
from kernels.triton.configs import Config, choose


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Tokens of each tile of a step; the same in every layer with these options."""

    slot_table: torch.Tensor
    shape: AttentionShape
    options: AttentionOptions
    config: Config
    tiles: torch.Tensor
    """[4, tiles] int32: a tile's row in the slot table, -1 for no tile, its first token, that
    token's position, and how many tokens it has."""


def plan_prefill(
    chunks: AttentionChunks,
    tokens: int,
    shape: AttentionShape,
    kv_dtype: torch.dtype,
    options: AttentionOptions | None = None,
) -> PrefillPlan:
    """Work out, on the device, the tiles of all chunks but the first `chunks.num_decodes`.

    Args:
        chunks: of the step.
        tokens: at least as many as those chunks have; how many programs start depends on it.
        shape: of attention.
        kv_dtype: of the caches.
        options: of the layers that will use the plan; None for none.
    """
    group = shape.heads // shape.kv_heads
    config = choose(
        "prefill_attention",
        kv_bits=8 * kv_dtype.itemsize,
        head_dim=triton.next_power_of_2(shape.head_dim),
        group=group,
    )
    # A tile holds at least one token.
    rows = max(config.tiles["BLOCK_M"], triton.next_power_of_2(group))
    config = replace(config, tiles={**config.tiles, "BLOCK_M": rows})
    tile_tokens = rows // group
    count = chunks.rows.shape[0] - chunks.num_decodes
    tiles = torch.empty(
        (4, tokens // tile_tokens + count), dtype=torch.int32, device=chunks.q_starts.device
    )
    if count:
        _tiles_kernel[(count,)](
            chunks.rows, chunks.q_starts, chunks.kv_lengths, chunks.num_decodes, count,
            tiles, tiles.shape[1],
            TILE_TOKENS=tile_tokens, BLOCK=256, num_warps=4,
        )  # fmt: skip
    return PrefillPlan(chunks.slot_table, shape, options or AttentionOptions(), config, tiles)


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: PrefillPlan,
    scales: KvScales | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of a plan's chunks over their sequences' slots.

    Heads past `head_dim` up to a power of two, and keys after a query or past a chunk's length,
    are masked.

    Args:
        q: [tokens, heads, head_dim] of the whole step, any strides.
        k_cache, v_cache: [slots, kv_heads, head_dim], rows contiguous, strides alike; of q's
            dtype, or int8.
        plan: what `plan_prefill` gave for the step.
        scales: of int8 caches; None for others.
        out: like q, its last stride 1, whose rows of the chunks are written; None for a new
            one, whose other rows hold anything.

    Returns:
        `out`.

    Raises:
        ValueError: shapes, strides or types disagree.

    Source: Dao 2023 (FlashAttention-2), section 3.
    """
    shape, options, table = plan.shape, plan.options, plan.slot_table
    check_attention(q, k_cache, v_cache, scales, shape, options)
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.tiles.shape[1] == 0:
        return out
    _prefill_kernel[(plan.tiles.shape[1], shape.kv_heads)](
        q, *q.stride(),
        k_cache, v_cache, k_cache.stride(0), k_cache.stride(1),
        *((scales.k, scales.v, *scales.k.stride()) if scales else (None, None, 0, 0)),
        out, out.stride(0), out.stride(1),
        table, table.stride(0), plan.tiles, plan.tiles.shape[1],
        options.alibi_slopes, options.sinks, shape.scale,
        GROUP=shape.heads // shape.kv_heads, HEAD_DIM=shape.head_dim,
        SOFT_CAP=options.soft_cap, WINDOW=options.window,
        BLOCK_D=triton.next_power_of_2(shape.head_dim), **plan.config.options(),
    )  # fmt: skip
    return out


@triton.jit(
    do_not_specialize=["first_chunk", "count", "capacity"],
    do_not_specialize_on_alignment=["rows_ptr", "q_starts_ptr", "lengths_ptr", "tiles_ptr"],
)
def _tiles_kernel(
    rows_ptr, q_starts_ptr, lengths_ptr, first_chunk, count, tiles_ptr, capacity,
    TILE_TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program `i` lists the tiles of chunk `i`, the last of them first: it has the most keys."""
    own = tl.program_id(0)
    before, total = 0, 0
    for start in range(0, count, BLOCK):
        chunk = start + tl.arange(0, BLOCK)
        starts_ptr = q_starts_ptr + first_chunk + chunk
        begin = tl.load(starts_ptr, mask=chunk < count, other=0)
        end = tl.load(starts_ptr + 1, mask=chunk < count, other=0)
        needed = ((end - begin + TILE_TOKENS - 1) // TILE_TOKENS).to(tl.int32)
        before += tl.sum(tl.where(chunk < own, needed, 0))
        total += tl.sum(needed)
    q_start = tl.load(q_starts_ptr + first_chunk + own).to(tl.int32)
    tokens = tl.load(q_starts_ptr + first_chunk + own + 1).to(tl.int32) - q_start
    prefix = tl.load(lengths_ptr + first_chunk + own).to(tl.int32) - tokens
    row = tl.load(rows_ptr + first_chunk + own).to(tl.int32)
    tiles = (tokens + TILE_TOKENS - 1) // TILE_TOKENS
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        first = (tiles - 1 - tile) * TILE_TOKENS
        to_ptr = tiles_ptr + before + tile
        tl.store(to_ptr, row, mask=tile < tiles)
        tl.store(to_ptr + capacity, q_start + first, mask=tile < tiles)
        tl.store(to_ptr + 2 * capacity, prefix + first, mask=tile < tiles)
        held = tl.minimum(tokens - first, TILE_TOKENS)
        tl.store(to_ptr + 3 * capacity, held, mask=tile < tiles)
    if own == count - 1:
        for start in range(total, capacity, BLOCK):
            tile = start + tl.arange(0, BLOCK)
            tl.store(tiles_ptr + tile, -1, mask=tile < capacity)


@triton.jit(do_not_specialize=["tiles"], do_not_specialize_on_alignment=["tiles_ptr"])
def _prefill_kernel(
    q_ptr, q_stride_t, q_stride_h, q_stride_d,
    k_ptr, v_ptr, kv_stride_s, kv_stride_h,
    k_scale_ptr, v_scale_ptr, scale_stride_s, scale_stride_h,
    out_ptr, out_stride_t, out_stride_h,
    table_ptr, table_stride, tiles_ptr, tiles, slopes_ptr, sinks_ptr, scale,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, SOFT_CAP: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles_ptr += tl.program_id(0)
    table_row = tl.load(tiles_ptr)
    if table_row < 0:
        return
    first_token = tl.load(tiles_ptr + tiles)
    first_position = tl.load(tiles_ptr + 2 * tiles)
    held = tl.load(tiles_ptr + 3 * tiles)
    table_ptr += table_row.to(tl.int64) * table_stride
    kv_head = tl.program_id(1)

    row = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + row % GROUP
    token = (first_token + row // GROUP).to(tl.int64)
    position = first_position + row // GROUP
    in_row = (row // GROUP < held)[:, None] & (dims < HEAD_DIM)[None, :]
    q_rows_ptr = q_ptr + (token * q_stride_t + head * q_stride_h)[:, None]
    q = tl.load(q_rows_ptr + dims[None, :] * q_stride_d, mask=in_row, other=0)

    scale_place = kv_head * scale_stride_h
    k_ptr += kv_head.to(tl.int64) * kv_stride_h
    v_ptr += kv_head.to(tl.int64) * kv_stride_h
    kv = k_ptr, v_ptr, kv_stride_s, k_scale_ptr, v_scale_ptr, scale_place, scale_stride_s
    slopes = tl.load(slopes_ptr + head) * LOG2E if slopes_ptr is not None else None
    state = no_keys_yet(sinks_ptr, head, BLOCK_M, BLOCK_D)

    # Every query of the tile sees the keys from `begin` to `masked_from`.
    stop = first_position + held
    begin = tl.maximum(first_position + 1 - WINDOW, 0) if WINDOW > 0 else 0
    if WINDOW == 0:
        masked_from = (first_position + 1) // BLOCK_N * BLOCK_N
        state = _attend_range(
            state, begin, masked_from, q, kv, table_ptr, position, slopes, scale,
            False, SOFT_CAP, WINDOW, HEAD_DIM, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        begin = masked_from
    state = _attend_range(
        state, begin, stop, q, kv, table_ptr, position, slopes, scale,
        True, SOFT_CAP, WINDOW, HEAD_DIM, BLOCK_N, BLOCK_D,
    )  # fmt: skip

    _, total, acc = state
    out_rows_ptr = out_ptr + (token * out_stride_t + head * out_stride_h)[:, None]
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_rows_ptr + dims[None, :], out, mask=in_row)


@triton.jit
def _attend_range(
    state, begin, end, q, kv, table_ptr, position, slopes, scale,
    MASKED: tl.constexpr, SOFT_CAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Attend to the keys from `begin` to `end`, of whole blocks unless MASKED."""
    key = begin + tl.arange(0, BLOCK_N)
    slots = tl.load(table_ptr + key, mask=key < end, other=0)
    scales = load_scales(kv, slots, key < end)
    for start in tl.range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        # A turn ahead, for the addresses of the next turn's keys depend on them.
        ahead = key + BLOCK_N
        next_slots = tl.load(table_ptr + ahead, mask=ahead < end, other=0)
        next_scales = load_scales(kv, next_slots, ahead < end)
        distance = position[:, None] - key[None, :]
        stored, visible = None, None
        if MASKED:
            stored = key < end
            visible = distance >= 0
            if WINDOW > 0:
                visible &= distance < WINDOW
        state = attend_block(
            state, q, kv, slots, scales, stored, visible, distance, slopes, scale,
            SOFT_CAP, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        slots, scales = next_slots, next_scales
    return state
