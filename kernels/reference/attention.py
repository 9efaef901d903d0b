"""Attention with every option, over caches of both formats, in plain PyTorch: the oracle.

Clear, not fast. Invariant: computed in float32, in float64 where the queries are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention_options import PLAIN, AttentionOptions, Int8Rows, KvScales
from kernels.ops import AttentionChunks, AttentionShape

Cache = torch.Tensor | Int8Rows
"""Keys, or values, of one layer: [slots, kv_heads, head_dim]."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The arguments of a step; nothing is worked out ahead."""

    chunks: AttentionChunks
    shape: AttentionShape
    options: AttentionOptions


def store_kv(
    k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor, k_cache: Cache, v_cache: Cache
) -> None:
    """See `Operations.store_kv`."""
    if isinstance(k_cache, Int8Rows) and isinstance(v_cache, Int8Rows):
        scales = KvScales(k_cache.scales, v_cache.scales)
        store_kv_int8(k, v, slots, k_cache.rows, v_cache.rows, scales)
    else:
        assert isinstance(k_cache, torch.Tensor)
        assert isinstance(v_cache, torch.Tensor)
        k_cache[slots], v_cache[slots] = k, v


def plan_attention(
    chunks: AttentionChunks,
    shape: AttentionShape,
    dtype: torch.dtype,
    options: AttentionOptions = PLAIN,
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    return AttentionPlan(chunks, shape, options)


def attention(q: torch.Tensor, k_cache: Cache, v_cache: Cache, plan: AttentionPlan) -> torch.Tensor:
    """See `Operations.attention`."""
    chunks, shape, options = plan.chunks, plan.shape, plan.options
    if isinstance(k_cache, Int8Rows) and isinstance(v_cache, Int8Rows):
        scales = KvScales(k_cache.scales, v_cache.scales)
        caches = k_cache.rows, v_cache.rows
        return attend_chunks(q, caches, chunks, shape, options, scales)
    assert isinstance(k_cache, torch.Tensor)
    assert isinstance(v_cache, torch.Tensor)
    return attend_chunks(q, (k_cache, v_cache), chunks, shape, options)


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to int8, each by a scale of its own.

    Args:
        rows: [tokens, kv_heads, head_dim].

    Returns:
        Like `rows` int8, and [tokens, kv_heads] float16 to multiply it by. A row whose scale
        float16 cannot tell from zero becomes zero.
    """
    scales = (rows.float().abs().amax(dim=-1) / 127).half()
    factors = torch.where(scales == 0, 0.0, 1 / scales.float())
    whole = torch.floor(rows.float() * factors.unsqueeze(-1) + 0.5)
    return whole.clamp(-127, 127).to(torch.int8), scales


def dequantise(rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Undo `quantise`, but for the rounding: float64, like `rows`."""
    return rows.double() * scales.double().unsqueeze(-1)


def store_kv_int8(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    scales: KvScales,
) -> None:
    """Write row `i` of `k` and `v`, quantised, into cache row `slots[i]`; skip negative slots."""
    kept = slots >= 0
    at = slots[kept].long()
    k_cache[at], scales.k[at] = quantise(k[kept])
    v_cache[at], scales.v[at] = quantise(v[kept])


def attend_chunks(
    q: torch.Tensor,
    caches: tuple[torch.Tensor, torch.Tensor],
    chunks: AttentionChunks,
    shape: AttentionShape,
    options: AttentionOptions,
    scales: KvScales | None = None,
) -> torch.Tensor:
    """Causal attention of every chunk over its sequence's slots.

    Args:
        q: [tokens, heads, head_dim].
        caches: of keys and of values, each [slots, kv_heads, head_dim].
        chunks: of the step; one without positions gives zeros.
        shape: of attention.
        options: of attention.
        scales: of int8 caches; None for others.

    Returns:
        [tokens, heads, head_dim] in the dtype of `q`.
    """
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    for index, (row, length) in enumerate(
        zip(chunks.rows.tolist(), chunks.kv_lengths.tolist(), strict=True)
    ):
        if length == 0:
            continue
        own = slice(int(chunks.q_starts[index]), int(chunks.q_starts[index + 1]))
        slots = chunks.slot_table[row, :length].long()
        k, v = (cache[slots] for cache in caches)
        if scales is not None:
            k, v = dequantise(k, scales.k[slots]), dequantise(v, scales.v[slots])
        out[own] = attend(q[own], k, v, shape.scale, options)
    return out


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    options: AttentionOptions,
) -> torch.Tensor:
    """Causal attention of one sequence's last tokens over all of them.

    Args:
        q: [queries, heads, head_dim], of the last positions.
        k, v: [length, kv_heads, head_dim], in order of position.
        scale: factor on the scores.
        options: what is done to the scores.

    Returns:
        [queries, heads, head_dim] in the dtype of `q`.

    Source: Press et al. 2022, section 3 (ALiBi); Gemma 2 2024, section 2 (soft cap);
    gpt-oss model card 2025, section 2.2 (sinks).
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    groups = q.shape[1] // k.shape[1]
    k, v = (rows.to(wide).repeat_interleave(groups, dim=1) for rows in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.to(wide), k) * scale
    positions = torch.arange(k.shape[0], device=q.device)
    distance = positions[-q.shape[0] :, None] - positions[None, :]
    if options.soft_cap:
        scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
    if options.alibi_slopes is not None:
        scores = scores - options.alibi_slopes.to(wide)[:, None, None] * distance
    hidden = distance < 0
    if options.window:
        hidden = hidden | (distance >= options.window)
    scores = scores.masked_fill(hidden, float("-inf"))
    if options.sinks is not None:
        sinks = options.sinks.to(wide)[:, None, None].expand(-1, q.shape[0], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(dim=-1)[..., : k.shape[0]]
    return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)
