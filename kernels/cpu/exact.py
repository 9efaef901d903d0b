"""The operations in float32, with results that do not depend on what else is in the step.

Whether a token is computed as a decode or in a prompt's chunk, alone or among others, its row comes
out the same, so a request's tokens are the same in any company and after any recomputation. A
product of oneDNN with prepacked weights gives each of two or more rows the same bits whatever their
number; everything else whose order of summation varies is summed in float64 and rounded once, which
leaves a difference in the last bit about once in 10^8 numbers; the form of the experts is fixed by
their sizes. Invariant: what depends on the number of tokens agrees to float64's precision.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from kernels.attention_options import PLAIN, AttentionOptions
from kernels.cpu import experts
from kernels.cpu.attention import AttentionPlan, attend_parts, plan_chunks, plan_options
from kernels.cpu.linear import pack_linear as pack_product
from kernels.cpu.rows import rotate
from kernels.formats import DENSE, Dense
from kernels.layers import Linear, LinearContext
from kernels.ops import AttentionChunks, AttentionShape, Routing

# The step size for which the form of the experts is chosen, once for all steps.
NOMINAL_TOKENS = 32


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None, format: Dense = DENSE) -> Linear:
    """See `Operations.pack_linear`."""
    product = pack_product(weight, bias)

    def multiply(x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        # A lone row is summed in another order than one of several, if it is long.
        out = product(x) if x.shape[0] > 1 else product(x.expand(2, -1))[: x.shape[0]]
        return out if context is None else context.add(x, out)

    return multiply


def _normalise(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide.mul_(wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_())


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Operations.rms_norm`."""
    if residual is not None:
        x = residual.add_(x)
    return _normalise(x, eps).mul_(weight).float(), x


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
    wide_bias = None if bias is None else bias.double()
    normed = functional.layer_norm(x.double(), weight.shape, weight.double(), wide_bias, eps)
    return normed.float(), x


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """See `Operations.norm_heads`."""
    heads.copy_(_normalise(heads, eps).mul_(weight))


def rope(heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> None:
    """See `Operations.rope`."""
    heads.copy_(rotate(heads.double(), angles))


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `Operations.silu_mul`."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return functional.silu(gate).mul_(up).float()


def gelu_mul(gate_up: torch.Tensor, approximate: Literal["tanh", "none"]) -> torch.Tensor:
    """See `Operations.gelu_mul`."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return functional.gelu(gate, approximate=approximate).mul_(up).float()


def plan_attention(
    chunks: AttentionChunks,
    shape: AttentionShape,
    dtype: torch.dtype,
    options: AttentionOptions = PLAIN,
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    if options != PLAIN:
        return plan_options(chunks, shape, options)
    return AttentionPlan(plan_chunks(chunks, 0, shape, torch.float64))


def attention(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor:
    """See `Operations.attention`."""
    return attend_parts(q.double(), k_cache, v_cache, plan).float()


def pack_experts(
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    format: Dense = DENSE,
) -> experts.PackedExperts:
    """See `Operations.pack_experts`."""
    arithmetic = experts.Arithmetic(pack_linear, silu_mul, torch.float64)
    sizes = range(NOMINAL_TOKENS, NOMINAL_TOKENS + 1)
    return experts.pack(router, gate_up, down, routing, arithmetic, sizes)
