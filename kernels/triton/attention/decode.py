"""Attention of one new token per sequence over token-level KV, in two stages.

First each program attends to one item (see `decode_splits`) of one sequence with the query heads of
one key/value head, which so share the keys they load; then the items of each sequence are merged.

Invariant: only the slots of a sequence's own positions are read; a sequence without positions gives
zeros.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.attention_options import KvScales
from kernels.triton.attention.block import LOG2E, LOWEST, attend_block, load_scales, no_keys_yet
from kernels.triton.attention.checks import check_attention
from kernels.triton.attention.splits import DecodePlan, head_blocks


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: DecodePlan,
    scales: KvScales | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the first `plan.chunks.num_decodes` tokens over their sequences' slots.

    Rows of a group up to a power of two, at least 16, dims past `head_dim` up to a power of two,
    and keys past an item are masked.

    Args:
        q: [tokens, heads, head_dim] of the whole step, any strides.
        k_cache, v_cache: [slots, kv_heads, head_dim], rows contiguous, strides alike; of q's
            dtype, or int8.
        plan: what `plan_decode` gave for the step.
        scales: of int8 caches; None for others.
        out: like q, its last stride 1, whose first rows are written; None for a new one, whose
            other rows hold anything.

    Returns:
        `out`.

    Raises:
        ValueError: shapes, strides or types disagree.

    Source: Dao et al. 2023 (Flash-Decoding); LightLLM's TokenAttention.
    """
    check_attention(q, k_cache, v_cache, scales, plan.shape, plan.options)
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.chunks.num_decodes:
        _attend_to_items(q, k_cache, v_cache, plan, scales)
        _merge_items(plan, out)
    return out


def _attend_to_items(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: DecodePlan,
    scales: KvScales | None,
) -> None:
    chunks, shape, buffers = plan.chunks, plan.shape, plan.buffers
    rows, blocks = head_blocks(shape)
    # Heads first: programs that run side by side read the heads of the same tokens.
    _items_kernel[(shape.kv_heads * blocks, plan.items)](
        q, *q.stride(),
        k_cache, v_cache, k_cache.stride(0), k_cache.stride(1),
        *((scales.k, scales.v, *scales.k.stride()) if scales else (None, None, 0, 0)),
        buffers.partial, buffers.log_sums,
        chunks.slot_table, chunks.slot_table.stride(0), chunks.kv_lengths,
        buffers.work, buffers.work.stride(0), plan.options.alibi_slopes, shape.scale,
        HEADS=shape.heads, GROUP=shape.heads // shape.kv_heads, HEAD_DIM=shape.head_dim,
        SOFT_CAP=plan.options.soft_cap, BLOCK_H=rows, HEAD_BLOCKS=blocks,
        BLOCK_D=triton.next_power_of_2(shape.head_dim), **plan.config.options(),
    )  # fmt: skip


def _merge_items(plan: DecodePlan, out: torch.Tensor) -> None:
    shape, buffers = plan.shape, plan.buffers
    _merge_kernel[(plan.chunks.num_decodes, shape.heads)](
        buffers.partial, buffers.log_sums, buffers.spans, buffers.spans.stride(0),
        plan.options.sinks, out, out.stride(0), out.stride(1),
        HEADS=shape.heads, HEAD_DIM=shape.head_dim,
        BLOCK_S=16, BLOCK_D=triton.next_power_of_2(shape.head_dim), num_warps=4,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["work_stride"],
    do_not_specialize_on_alignment=["lengths_ptr", "work_ptr"],
)
def _items_kernel(
    q_ptr, q_stride_t, q_stride_h, q_stride_d,
    k_ptr, v_ptr, kv_stride_s, kv_stride_h,
    k_scale_ptr, v_scale_ptr, scale_stride_s, scale_stride_h,
    partial_ptr, log_sums_ptr,
    table_ptr, table_stride, lengths_ptr, work_ptr, work_stride, slopes_ptr, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, SOFT_CAP: tl.constexpr,
    BLOCK_H: tl.constexpr, HEAD_BLOCKS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(1).to(tl.int64)
    sequence = tl.load(work_ptr + item)
    if sequence < 0:
        return
    table_row = tl.load(work_ptr + work_stride + item)
    begin = tl.load(work_ptr + 2 * work_stride + item)
    end = tl.load(work_ptr + 3 * work_stride + item)
    position = tl.load(lengths_ptr + sequence).to(tl.int32) - 1
    table_ptr += table_row.to(tl.int64) * table_stride

    kv_head = tl.program_id(0) // HEAD_BLOCKS
    of_group = tl.program_id(0) % HEAD_BLOCKS * BLOCK_H + tl.arange(0, BLOCK_H)
    head = kv_head * GROUP + of_group
    dims = tl.arange(0, BLOCK_D)
    live = of_group < GROUP
    in_row = live[:, None] & (dims < HEAD_DIM)[None, :]
    q_rows_ptr = q_ptr + sequence.to(tl.int64) * q_stride_t + (head * q_stride_h)[:, None]
    q = tl.load(q_rows_ptr + dims[None, :] * q_stride_d, mask=in_row, other=0)

    scale_place = kv_head * scale_stride_h
    k_ptr += kv_head.to(tl.int64) * kv_stride_h
    v_ptr += kv_head.to(tl.int64) * kv_stride_h
    kv = k_ptr, v_ptr, kv_stride_s, k_scale_ptr, v_scale_ptr, scale_place, scale_stride_s
    slopes = tl.load(slopes_ptr + head, mask=live) * LOG2E if slopes_ptr is not None else None
    state = no_keys_yet(None, head, BLOCK_H, BLOCK_D)
    key = begin + tl.arange(0, BLOCK_N)
    slots = tl.load(table_ptr + key, mask=key < end, other=0)
    scales = load_scales(kv, slots, key < end)
    for start in tl.range(begin, end, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        # A turn ahead, for the addresses of the next turn's keys depend on them.
        ahead = key + BLOCK_N
        next_slots = tl.load(table_ptr + ahead, mask=ahead < end, other=0)
        next_scales = load_scales(kv, next_slots, ahead < end)
        stored = key < end
        state = attend_block(
            state, q, kv, slots, scales, stored, stored[None, :], (position - key)[None, :],
            slopes, scale, SOFT_CAP, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        slots, scales = next_slots, next_scales

    peak, total, acc = state
    place = item * HEADS + head
    log_sum = tl.where(total > 0, peak + tl.log2(total), float("-inf"))
    tl.store(log_sums_ptr + place, log_sum, mask=live)
    acc = acc / tl.where(total > 0, total, 1)[:, None]
    tl.store(partial_ptr + (place * HEAD_DIM)[:, None] + dims[None, :], acc, mask=in_row)


@triton.jit(do_not_specialize=["spans_stride"], do_not_specialize_on_alignment=["spans_ptr"])
def _merge_kernel(
    partial_ptr, log_sums_ptr, spans_ptr, spans_stride, sinks_ptr,
    out_ptr, out_stride_t, out_stride_h,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Weigh a sequence's items by their sums of exponentials, one head a program."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    first = tl.load(spans_ptr + sequence).to(tl.int64)
    count = tl.load(spans_ptr + spans_stride + sequence)
    dims = tl.arange(0, BLOCK_D)
    in_row = dims < HEAD_DIM
    peak, total = LOWEST, 0.0
    if sinks_ptr is not None:
        peak = tl.load(sinks_ptr + head) * LOG2E
        total = 1.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, count, BLOCK_S):
        item = start + tl.arange(0, BLOCK_S)
        place = (first + item) * HEADS + head
        log_sum = tl.load(log_sums_ptr + place, mask=item < count, other=float("-inf"))
        partial = tl.load(
            partial_ptr + (place * HEAD_DIM)[:, None] + dims[None, :],
            mask=(item < count)[:, None] & in_row[None, :], other=0,
        )  # fmt: skip
        new_peak = tl.maximum(peak, tl.max(log_sum, 0))
        weights = tl.exp2(log_sum - new_peak)
        decay = tl.exp2(peak - new_peak)
        total = total * decay + tl.sum(weights, 0)
        acc = acc * decay + tl.sum(partial * weights[:, None], 0)
        peak = new_peak
    acc = tl.where(total > 0, acc / total, 0.0)
    out_row_ptr = out_ptr + sequence * out_stride_t + head * out_stride_h
    tl.store(out_row_ptr + dims, acc.to(out_ptr.dtype.element_ty), mask=in_row)
