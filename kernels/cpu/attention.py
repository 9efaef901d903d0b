"""Attention of one step: decodes together in blocks of like length, prompt chunks one by one.

Invariant: the parts of a plan cover every query of the step once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.cpu.decode_attention import DecodeBlock, SingleDecode, plan_decodes
from kernels.cpu.prefill_attention import PromptChunk
from kernels.ops import AttentionChunks, AttentionShape


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What every layer of a step computes."""

    parts: Sequence[SingleDecode | DecodeBlock | PromptChunk]


def plan_attention(
    chunks: AttentionChunks, shape: AttentionShape, dtype: torch.dtype
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    parts: list[SingleDecode | DecodeBlock | PromptChunk] = []
    decodes = chunks.num_decodes
    if decodes:
        rows, lengths = chunks.rows.numpy()[:decodes], chunks.kv_lengths.numpy()[:decodes]
        parts.extend(plan_decodes(chunks.slot_table.numpy(), rows, lengths, shape))
    parts.extend(plan_chunks(chunks, decodes, shape, dtype))
    return AttentionPlan(parts)


def plan_chunks(
    chunks: AttentionChunks, first: int, shape: AttentionShape, dtype: torch.dtype
) -> list[PromptChunk]:
    """Plan the chunks from number `first` on one by one, in `dtype`."""
    table = chunks.slot_table.numpy()
    starts = chunks.q_starts.tolist()[first:]
    rows, lengths = chunks.rows.tolist()[first:], chunks.kv_lengths.tolist()[first:]
    return [
        PromptChunk(slice(start, stop), table[row, :length], shape, dtype)
        for start, stop, row, length in zip(starts, starts[1:], rows, lengths, strict=False)
    ]


def attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """See `Operations.attention`."""
    return attend_parts(q, k_cache, v_cache, plan)


def attend_parts(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """Compute every part of a plan, in the type of `q`: [tokens, heads, head_dim] to the same."""
    if len(plan.parts) == 1:
        return plan.parts[0].attend(q, k_cache, v_cache)
    out = torch.empty(q.shape, dtype=q.dtype)
    for part in plan.parts:
        out[part.queries] = part.attend(q[part.queries], k_cache, v_cache)
    return out
