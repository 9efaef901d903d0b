"""Attention of one step: decodes together in blocks of like length, prompt chunks one by one.

With options every chunk is computed by itself.

Invariant: the parts of a plan cover every query of the step once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.attention_options import PLAIN, AttentionOptions
from kernels.cpu.attention_with_options import ChunkWithOptions
from kernels.cpu.decode_attention import DecodeBlock, SingleDecode, plan_decodes
from kernels.cpu.prefill_attention import PromptChunk
from kernels.ops import AttentionChunks, AttentionShape


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The parts that every layer of a step computes."""

    parts: Sequence[SingleDecode | DecodeBlock | PromptChunk | ChunkWithOptions]


def plan_attention(
    chunks: AttentionChunks,
    shape: AttentionShape,
    dtype: torch.dtype,
    options: AttentionOptions = PLAIN,
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    if options != PLAIN:
        return plan_options(chunks, shape, options)
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
    return [PromptChunk(queries, slots, shape, dtype) for queries, slots in _split(chunks, first)]


def plan_options(
    chunks: AttentionChunks, shape: AttentionShape, options: AttentionOptions
) -> AttentionPlan:
    """Plan every chunk of a step whose attention has options."""
    split = _split(chunks, 0)
    return AttentionPlan(
        [ChunkWithOptions(queries, slots, shape, options) for queries, slots in split]
    )


def _split(chunks: AttentionChunks, first: int) -> Iterator[tuple[slice, npt.NDArray[np.int32]]]:
    """Queries and slots of each chunk from number `first` on."""
    table = chunks.slot_table.numpy()
    starts = chunks.q_starts.tolist()[first:]
    rows, lengths = chunks.rows.tolist()[first:], chunks.kv_lengths.tolist()[first:]
    for start, stop, row, length in zip(starts, starts[1:], rows, lengths, strict=False):
        yield slice(start, stop), table[row, :length]


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
