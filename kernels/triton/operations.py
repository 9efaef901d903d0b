"""The operations of `kernels.ops` on a GPU, or on a CPU under Triton's interpreter.

What has no kernel of ours, products and experts, is PyTorch's. Invariant: nothing waits for the
device, as long as the host knows how many tokens a step has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from kernels.eager import capture, gated, take_rows
from kernels.ops import AttentionChunks, AttentionShape
from kernels.reference import moe, pack_experts, pack_linear
from kernels.triton import rope as rotary
from kernels.triton.activations import silu_mul
from kernels.triton.decode_attention import decode_attention
from kernels.triton.decode_splits import DecodeBuffers, DecodePlan, plan_decode
from kernels.triton.prefill_attention import PrefillPlan, plan_prefill, prefill_attention
from kernels.triton.rms_norm import norm_heads, rms_norm
from kernels.triton.store_kv import store_kv

__all__ = [
    "attention",
    "capture",
    "embedding",
    "moe",
    "norm_heads",
    "pack_experts",
    "pack_gated",
    "pack_linear",
    "plan_attention",
    "rms_norm",
    "rope",
    "rope_angles",
    "silu_mul",
    "store_kv",
    "take_rows",
]

# Where nothing runs side by side, a decode is split only to show that it can be.
_SPLITS_INTERPRETED = 4


class Angles(NamedTuple):
    """Which rows of which table turn a step's heads; they are looked up as they are used."""

    table: torch.Tensor
    """[context, rotary_dim] float32."""
    positions: torch.Tensor
    """[tokens] int64."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A step's two kinds of attention; None for what it has not."""

    decode: DecodePlan | None
    prefill: PrefillPlan | None


def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """See `Operations.embedding`."""
    return table.index_select(0, token_ids)


def rope_angles(table: torch.Tensor, positions: torch.Tensor) -> Angles:
    """See `Operations.rope_angles`."""
    return Angles(table, positions)


def rope(heads: torch.Tensor, angles: Angles) -> None:
    """See `Operations.rope`."""
    rotary.rope(heads, None, angles.table, angles.positions)


def plan_attention(
    chunks: AttentionChunks, shape: AttentionShape, dtype: torch.dtype
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    decodes, device = chunks.num_decodes, chunks.q_starts.device
    decode, prefill = None, None
    if decodes:
        splits = None if device.type == "cuda" else _SPLITS_INTERPRETED
        buffers = DecodeBuffers.allocate(decodes, shape, device, splits)
        decode = plan_decode(chunks, shape, dtype, buffers=buffers)
    if chunks.rows.shape[0] > decodes:
        tokens = chunks.num_tokens
        if tokens is None:
            tokens = int(chunks.q_starts[-1])
        prefill = plan_prefill(chunks, tokens - decodes, shape, dtype)
    return AttentionPlan(decode, prefill)


def attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """See `Operations.attention`."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if plan.decode is not None:
        decode_attention(q, k_cache, v_cache, plan.decode, out=out)
    if plan.prefill is not None:
        prefill_attention(q, k_cache, v_cache, plan.prefill, out=out)
    return out


pack_gated = gated(pack_linear, silu_mul)
