"""Operations on every token by itself: lookups, norms, rotation, gating, cache writes.

Invariant: no operation here reads another token's row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

# Up to so many rows, an operation costs its calls into torch rather than its arithmetic.
FEW_ROWS = 16


def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """See `Operations.embedding`."""
    return table.index_select(0, token_ids)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.rms_norm`."""
    if residual is not None:
        x = residual.add_(x)
    if x.shape[0] > FEW_ROWS:
        return functional.rms_norm(x, weight.shape, weight, eps), x
    # (x, -x) has mean zero, so its layer norm is x's RMS norm: one fused call instead of nine.
    hidden = x.shape[1]
    both = torch.layer_norm(torch.cat((x, -x), dim=1), (2 * hidden,), eps=eps)
    return both[:, :hidden] * weight, x


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.layer_norm`."""
    if residual is not None:
        x = residual.add_(x)
    return functional.layer_norm(x, weight.shape, weight, bias, eps), x


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """See `Operations.norm_heads`."""
    heads.copy_(functional.rms_norm(heads, heads.shape[-1:], None, eps).mul_(weight))


def rope_angles(table: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.rope_angles`.

    Returns:
        Factors of each dimension, and of the dimension it is paired with: [tokens, 1, head_dim]
        float32 each.
    """
    cos, sin = table.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rope(heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> None:
    """See `Operations.rope`; computed in float32 and rounded once."""
    wide = heads.float()
    rotate(wide, angles)
    if wide is not heads:
        heads.copy_(wide)


def rotate(wide: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate heads in place, in the precision they have, and return them."""
    own, paired = angles
    partners = wide.roll(wide.shape[-1] // 2, -1)
    return wide.mul_(own).addcmul_(partners, paired)


def store_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    """See `Operations.store_kv`."""
    k_cache.index_copy_(0, slots, k)
    v_cache.index_copy_(0, slots, v)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `Operations.silu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def gelu_mul(gate_up: torch.Tensor, approximate: Literal["tanh", "none"]) -> torch.Tensor:
    """See `Operations.gelu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate=approximate).mul_(up)
