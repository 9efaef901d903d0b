"""Row operations that no model of ours calls yet, in plain PyTorch: the oracle of their kernels.

Invariant: clear before fast, and computed in the precision of their inputs, float64 included.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `kernels.triton.layer_norm.layer_norm`; writes over nothing."""
    if residual is not None:
        x = x + residual
    return functional.layer_norm(x, weight.shape, weight, bias, eps), x


def rope(
    heads: torch.Tensor, table: torch.Tensor, positions: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """See `kernels.triton.rope.rope`; the rotated heads [tokens, heads, head_dim], in a new tensor.

    Source: Su et al. 2021, section 3.4.2.
    """
    rotary_dim = table.shape[1]
    cos, sin = table[positions].to(heads.dtype).unsqueeze(1).chunk(2, dim=-1)
    rotated = heads.clone()
    turning = rotated[..., :rotary_dim]
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = turning.chunk(2, dim=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    first.copy_(turned[0])
    second.copy_(turned[1])
    return rotated


def gelu_mul(gate_up: torch.Tensor, approximate: str) -> torch.Tensor:
    """See `kernels.triton.activations.gelu_mul`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate=approximate) * up
