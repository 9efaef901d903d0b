"""Products and experts in plain PyTorch: the oracle of their kernels.

Invariant: clear before fast, and computed in the precision of their inputs (float64 included),
except where `kernels.ops.Operations` says float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kernels.formats import DENSE, Dense
from kernels.ops import Routing
from kernels.reference.rows import silu_mul, widened


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts as they were given; see `kernels.layers.Experts`."""

    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    routing: Routing
    format: Dense = DENSE

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, hidden] to the same."""
        weights, chosen = route(functional.linear(x, self.router), self.routing)
        out = torch.zeros(x.shape, dtype=weights.dtype, device=x.device)
        for expert, (gate_up, down) in enumerate(zip(self.gate_up, self.down, strict=True)):
            tokens, place = torch.nonzero(chosen == expert, as_tuple=True)
            expert_out = functional.linear(silu_mul(functional.linear(x[tokens], gate_up)), down)
            out.index_add_(0, tokens, expert_out * weights[tokens, place].unsqueeze(1))
        return out.to(x.dtype)


def route(router_logits: torch.Tensor, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose each token's experts.

    Args:
        router_logits: [tokens, experts].
        routing: how.

    Returns:
        Their weights [tokens, top_k], float32 unless the logits are float64, and their numbers
        [tokens, top_k] int64.
    """
    weights, chosen = widened(router_logits).softmax(dim=-1).topk(routing.top_k, dim=-1)
    if routing.renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, chosen
