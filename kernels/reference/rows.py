"""Row operations in plain PyTorch: the oracle of their kernels.

Invariant: clear before fast, and computed in the precision of their inputs (float64 included),
except where `kernels.ops.Operations` says float32.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """See `Operations.embedding`."""
    return table[token_ids]


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `Operations.take_rows`."""
    return x[rows]


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.rms_norm`."""
    if residual is not None:
        x = x + residual
    return _divide_by_rms(x, eps) * weight, x


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.layer_norm`; writes over nothing."""
    if residual is not None:
        x = x + residual
    return functional.layer_norm(x, weight.shape, weight, bias, eps), x


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """See `Operations.norm_heads`."""
    heads.copy_(_divide_by_rms(heads, eps) * weight)


def rope_angles(table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """See `Operations.rope_angles`: [tokens, head_dim], cosines then sines."""
    return table[positions]


def rope(heads: torch.Tensor, angles: torch.Tensor) -> None:
    """See `Operations.rope`."""
    cos, sin = angles.to(widened(heads).dtype).unsqueeze(1).chunk(2, dim=-1)
    first, second = widened(heads).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    heads.copy_(rotated)


def rope_partly(heads: torch.Tensor, table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotate as many dimensions of each head as `table` has: a new [tokens, heads, head_dim].

    Source: Su et al. 2021, section 3.4.2.
    """
    rotary_dim = table.shape[1]
    cos, sin = table[positions].to(heads.dtype).unsqueeze(1).chunk(2, dim=-1)
    rotated = heads.clone()
    turning = rotated[..., :rotary_dim]
    first, second = turning.chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    first.copy_(turned[0])
    second.copy_(turned[1])
    return rotated


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `Operations.silu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def gelu_mul(gate_up: torch.Tensor, approximate: str) -> torch.Tensor:
    """See `Operations.gelu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate=approximate) * up


def _divide_by_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = widened(x)
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype)


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
