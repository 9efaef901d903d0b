"""One block of keys against one tile of queries: what prefill and decode attention have in common.

Invariant: the running state of a query is its peak score (in units of log 2), the sum of its
weights and the weighted sum of values, both relative to the peak.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# float32 products as six of bfloat16, as exact as float32 itself and on any tensor core.
_PRECISION = tl.constexpr("bf16x6")
# Less than any score, and finite, so that a query that has seen nothing yet has weights of zero.
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def no_keys_yet(sinks_ptr, heads, M: tl.constexpr, BLOCK_D: tl.constexpr):
    """The state of `heads` [M] before their first key; their sinks count, unless None."""
    total = tl.zeros([M], tl.float32)
    peak = total + LOWEST
    if sinks_ptr is not None:
        peak = tl.load(sinks_ptr + heads) * LOG2E
        total += 1
    return peak, total, tl.zeros([M, BLOCK_D], tl.float32)


@triton.jit
def load_scales(kv, slots, stored):
    """Scales of keys and of values in `slots` [N], those `stored`; zeros if the cache has none."""
    _, _, _, k_scale_ptr, v_scale_ptr, place, stride_s = kv
    k_scale, v_scale = 0.0, 0.0
    if k_scale_ptr is not None:
        place += slots.to(tl.int64) * stride_s
        k_scale = tl.load(k_scale_ptr + place, mask=stored, other=0).to(tl.float32)
        v_scale = tl.load(v_scale_ptr + place, mask=stored, other=0).to(tl.float32)
    return k_scale, v_scale


@triton.jit
def attend_block(
    state, q, kv, slots, scales, stored, visible, distance, slopes, scale,
    SOFT_CAP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add one block of keys and values to the running state of a tile of queries.

    Args:
        state: peaks [M], sums [M] and weighted values [M, BLOCK_D] so far, float32.
        q: [M, BLOCK_D].
        kv: pointers to one head of the caches and their stride by slot; pointers to the scales
            or None, the head's place in them and their stride by slot.
        slots: [N].
        scales: what `load_scales` gave for the slots.
        stored: [N], which slots may be read; None for all.
        visible: [M, N] or [1, N], which scores count; None for all.
        distance: like `visible`, from key to query; used with ALiBi only.
        slopes: [M] in units of log 2, or None for no ALiBi.
        scale: factor on query-key products; SOFT_CAP is applied after it, 0 for none.

    Source: Dao 2023 (FlashAttention-2), algorithm 1.
    """
    peak, total, acc = state
    k_ptr, v_ptr, stride_s, k_scale_ptr, _, _, _ = kv
    dims = tl.arange(0, BLOCK_D)
    # int64: slot * stride passes 2**31 in a cache of 2**21 slots x 8 heads x 128 dims.
    offsets = slots.to(tl.int64)[:, None] * stride_s + dims[None, :]
    # A free slot may hold anything, NaN too: a weight of zero alone would not keep it out.
    k = _load_rows(k_ptr + offsets, stored, dims, HEAD_DIM, BLOCK_D)
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision=_PRECISION)
    factor = scale * LOG2E
    if k_scale_ptr is not None:
        scores *= scales[0][None, :]
    if SOFT_CAP > 0:
        # tanh by exp2; libdevice's would tie the kernel to one vendor.
        doubled = scores * (scale * (2 * LOG2E / SOFT_CAP))
        scores = SOFT_CAP - 2 * SOFT_CAP / (1 + tl.exp2(doubled))
        factor = LOG2E
    if slopes is not None:
        scores = scores * factor - slopes[:, None] * distance
        factor = 1.0
    if visible is not None:
        scores = tl.where(visible, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * factor)
    weights = tl.exp2(scores * factor - new_peak[:, None])
    decay = tl.exp2(peak - new_peak)
    total = total * decay + tl.sum(weights, 1)
    acc = acc * decay[:, None]
    # Not before the weights: int8 values wait in registers until they are used.
    v = _load_rows(v_ptr + offsets, stored, dims, HEAD_DIM, BLOCK_D)
    wide = v.dtype
    if k_scale_ptr is not None:
        weights *= scales[1][None, :]
        # float16 would lose small weights times small scales; float32 is there for tests alone.
        wide = tl.float32 if q.dtype == tl.float32 else tl.bfloat16
    acc = tl.dot(weights.to(wide), v.to(wide), acc, input_precision=_PRECISION)
    return new_peak, total, acc


@triton.jit
def _load_rows(pointers, stored, dims, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    if stored is not None:
        rows = tl.load(pointers, mask=stored[:, None] & (dims < HEAD_DIM)[None, :], other=0)
    elif HEAD_DIM < BLOCK_D:
        rows = tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0)
    else:
        rows = tl.load(pointers)
    return rows
