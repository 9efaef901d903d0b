"""Every operation in plain PyTorch: the oracle that all other sets are tested against.

Invariant: clear before fast, and computed in the precision of its inputs (float64 included),
except where `kernels.ops.Operations` says float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from kernels.eager import capture as capture
from kernels.eager import gated
from kernels.eager import take_rows as take_rows
from kernels.ops import AttentionChunks, AttentionShape, Linear, Routing


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts as they were given."""

    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    routing: Routing


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Nothing is worked out ahead."""

    chunks: AttentionChunks
    shape: AttentionShape


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """See `Operations.pack_linear`."""
    return partial(functional.linear, weight=weight, bias=bias)


def pack_experts(
    router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
) -> Experts:
    """See `Operations.pack_experts`."""
    return Experts(router, gate_up, down, routing)


def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """See `Operations.embedding`."""
    return table[token_ids]


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.rms_norm`."""
    if residual is not None:
        x = x + residual
    return _divide_by_rms(x, eps) * weight, x


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """See `Operations.norm_heads`."""
    heads.copy_(_divide_by_rms(heads, eps) * weight)


def _divide_by_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = _widen(x)
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype)


def _widen(x: torch.Tensor) -> torch.Tensor:
    """To float32, but for float64."""
    return x if x.dtype == torch.float64 else x.float()


def rope_angles(table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """See `Operations.rope_angles`: [tokens, head_dim], cosines then sines."""
    return table[positions]


def rope(heads: torch.Tensor, angles: torch.Tensor) -> None:
    """See `Operations.rope`."""
    cos, sin = angles.to(_widen(heads).dtype).unsqueeze(1).chunk(2, dim=-1)
    first, second = _widen(heads).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    heads.copy_(rotated)


def store_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    """See `Operations.store_kv`."""
    k_cache[slots] = k
    v_cache[slots] = v


def plan_attention(
    chunks: AttentionChunks, shape: AttentionShape, dtype: torch.dtype
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    return AttentionPlan(chunks, shape)


def attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """See `Operations.attention`."""
    chunks, shape = plan.chunks, plan.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for index, (row, length) in enumerate(
        zip(chunks.rows.tolist(), chunks.kv_lengths.tolist(), strict=True)
    ):
        own = slice(int(chunks.q_starts[index]), int(chunks.q_starts[index + 1]))
        slots = chunks.slot_table[row, :length].long()
        out[own] = attend(q[own], k_cache[slots], v_cache[slots], shape.scale)
    return out


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of one sequence's last tokens over all of them.

    Args:
        q: [queries, heads, head_dim], of the last positions.
        k, v: [length, kv_heads, head_dim], in order of position.
        scale: factor on the scores.

    Returns:
        [queries, heads, head_dim] in the dtype of `q`.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = _widen(k).repeat_interleave(groups, dim=1), _widen(v).repeat_interleave(groups, dim=1)
    scores = torch.einsum("qhd,khd->hqk", _widen(q), k) * scale
    positions = torch.arange(k.shape[0], device=q.device)
    future = positions[None, :] > positions[-q.shape[0] :, None]
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `Operations.silu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def route(router_logits: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose each token's experts.

    Args:
        router_logits: [tokens, experts].
        routing: how.

    Returns:
        Their weights [tokens, top_k], float32 unless the logits are float64, and their numbers
        [tokens, top_k] int64.
    """
    weights, chosen = _widen(router_logits).softmax(dim=-1).topk(routing.top_k, dim=-1)
    if routing.renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, chosen


def moe(x: torch.Tensor, experts: Experts) -> torch.Tensor:
    """See `Operations.moe`."""
    weights, chosen = route(functional.linear(x, experts.router), experts.routing)
    out = torch.zeros(x.shape, dtype=weights.dtype, device=x.device)
    for expert, (gate_up, down) in enumerate(zip(experts.gate_up, experts.down, strict=True)):
        tokens, place = torch.nonzero(chosen == expert, as_tuple=True)
        expert_out = functional.linear(silu_mul(functional.linear(x[tokens], gate_up)), down)
        out.index_add_(0, tokens, expert_out * weights[tokens, place].unsqueeze(1))
    return out.to(x.dtype)


pack_gated = gated(pack_linear, silu_mul)
