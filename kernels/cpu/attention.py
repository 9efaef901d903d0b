"""Attention of one step: decodes together in blocks of like length, prompt chunks one by one.

Invariant: the parts of a plan cover every query of the step once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.cpu.decode_attention import DecodeBlock, plan_blocks
from kernels.cpu.prefill_attention import PromptChunk
from kernels.ops import AttentionChunks, AttentionShape

# Up to so many scores, one sequence at a time is quicker than a block: fewer calls into torch.
SINGLE_SCORES = 2048


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What every layer of a step computes."""

    parts: list[DecodeBlock | PromptChunk]


def plan_attention(
    chunks: AttentionChunks, shape: AttentionShape, dtype: torch.dtype
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    lengths = chunks.kv_lengths.numpy()
    parts: list[DecodeBlock | PromptChunk] = []
    first_chunk = chunks.num_decodes
    if shape.heads * int(lengths[:first_chunk].sum()) <= SINGLE_SCORES:
        first_chunk = 0
    if first_chunk:
        slots = chunks.slot_table.numpy(), chunks.rows.numpy()[:first_chunk]
        parts.extend(plan_blocks(*slots, lengths[:first_chunk], shape))
    parts.extend(_plan_chunks(chunks, first_chunk, shape, dtype))
    return AttentionPlan(parts)


def _plan_chunks(
    chunks: AttentionChunks, first: int, shape: AttentionShape, dtype: torch.dtype
) -> list[PromptChunk]:
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
    if len(plan.parts) == 1:
        return plan.parts[0].attend(q, k_cache, v_cache)
    out = torch.empty(q.shape, dtype=q.dtype)
    for part in plan.parts:
        out[part.queries] = part.attend(q[part.queries], k_cache, v_cache)
    return out
