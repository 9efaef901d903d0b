"""Attention of one step: its decodes in one launch, its prompt chunks in another.

Invariant: nothing waits for the device, as long as the host knows how many tokens a step has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention_options import PLAIN, AttentionOptions, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.triton.attention.decode import decode_attention
from kernels.triton.attention.prefill import PrefillPlan, plan_prefill, prefill_attention
from kernels.triton.attention.splits import DecodeBuffers, DecodePlan, plan_decode

# Where nothing runs side by side, a decode is split only to show that it can be.
_SPLITS_INTERPRETED = 4


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A step's two kinds of attention; None for the kind that it lacks."""

    decode: DecodePlan | None
    prefill: PrefillPlan | None


def plan_attention(
    chunks: AttentionChunks,
    shape: AttentionShape,
    dtype: torch.dtype,
    options: AttentionOptions = PLAIN,
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    decodes, device = chunks.num_decodes, chunks.q_starts.device
    decode, prefill = None, None
    if decodes:
        splits = None if device.type == "cuda" else _SPLITS_INTERPRETED
        buffers = DecodeBuffers.allocate(decodes, shape, device, splits)
        decode = plan_decode(chunks, shape, dtype, options, buffers)
    if chunks.rows.shape[0] > decodes:
        tokens = chunks.num_tokens
        if tokens is None:
            tokens = int(chunks.q_starts[-1])
        prefill = plan_prefill(chunks, tokens - decodes, shape, dtype, options)
    return AttentionPlan(decode, prefill)


def attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    plan: AttentionPlan,
    scales: KvScales | None = None,
) -> torch.Tensor:
    """See `Operations.attention`; with `scales`, the caches are int8."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.decode is not None:
        decode_attention(q, k_cache, v_cache, plan.decode, scales, out)
    if plan.prefill is not None:
        prefill_attention(q, k_cache, v_cache, plan.prefill, scales, out)
    return out
