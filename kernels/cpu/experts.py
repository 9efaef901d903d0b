"""Mixture of experts: all experts at once where they are small, else only those that are hit.

Invariant: both ways compute the same; which one runs depends on sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from kernels.cpu.linear import pack_linear
from kernels.cpu.rows import silu_mul
from kernels.formats import DENSE, Dense
from kernels.layers import Linear
from kernels.ops import Routing

# Measured on two cores of a server of 2024. They need not be exact: where the two ways cost
# about the same, either will do.
ALL_S = 40e-6
"""Cost of computing all experts besides arithmetic."""
HITS_S = 50e-6
"""Cost of computing the hit experts besides them: sorting the tokens and back."""
HIT_S = 40e-6
"""Cost of one hit expert besides arithmetic."""
BYTE_FLOPS = 1.6e12
"""Multiplications and additions a second, times the bytes of a number."""
BANDWIDTH = 3e10
"""Bytes of weights a second."""
MOST_TOKENS = 4096
"""Of a step, for deciding which forms are worth their memory."""


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """Sizes of a layer that its cost depends on."""

    experts: int
    top_k: int
    hidden: int
    intermediate: int
    itemsize: int
    """Bytes of a weight."""


@lru_cache(maxsize=4096)
def all_pay(sizes: ExpertSizes, tokens: int) -> bool:
    """Computing every expert for every token costs less than the hit ones for theirs.

    Small experts cost less in arithmetic than in calls.
    """
    weights = 3 * sizes.hidden * sizes.intermediate
    read_s = weights * sizes.itemsize / BANDWIDTH
    token_s = 2 * weights * sizes.itemsize / BYTE_FLOPS
    hit = sizes.experts * (1 - (1 - sizes.top_k / sizes.experts) ** tokens)
    all_s = ALL_S + sizes.experts * (read_s + tokens * token_s)
    hits_s = HITS_S + hit * (HIT_S + read_s) + tokens * sizes.top_k * token_s
    return all_s < hits_s


@dataclass(frozen=True, slots=True)
class SeparateExperts:
    """Every expert by itself."""

    router: Linear
    gate_up: list[Linear]
    down: list[Linear]


@dataclass(frozen=True, slots=True)
class JoinedExperts:
    """All experts in two products."""

    router_gate_up: Linear
    """[hidden] to the router's scores, then every expert's gate, then every expert's up."""
    down: Linear
    """Every expert's [intermediate], side by side, to the sum of their outputs."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Products, gating and precision of a layer's experts."""

    pack_linear: Callable[[torch.Tensor, torch.Tensor | None], Linear]
    silu_mul: Callable[[torch.Tensor], torch.Tensor]
    routing: torch.dtype
    """In which the softmax over the router's scores is taken."""


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """One layer's experts, in the forms that steps of some size use."""

    sizes: ExpertSizes
    routing: Routing
    arithmetic: Arithmetic
    separate: SeparateExperts | None
    joined: JoinedExperts | None

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, hidden] to the same; see `kernels.layers.Experts`."""
        joined, separate = self.joined, self.separate
        if joined is not None and (separate is None or all_pay(self.sizes, x.shape[0])):
            return _compute_joined(x, joined, self)
        assert separate is not None
        return _compute_hit(x, separate, self)


def pack_experts(
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    format: Dense = DENSE,
) -> PackedExperts:
    """See `Operations.pack_experts`."""
    arithmetic = Arithmetic(pack_linear, silu_mul, torch.float32)
    return pack(router, gate_up, down, routing, arithmetic, range(1, MOST_TOKENS + 1))


def pack(
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    arithmetic: Arithmetic,
    steps: range,
) -> PackedExperts:
    """Pack the forms that are cheapest for some step of `steps` tokens; no other is used."""
    experts, hidden, intermediate = down.shape
    sizes = ExpertSizes(experts, routing.top_k, hidden, intermediate, down.dtype.itemsize)
    decisions = {all_pay(sizes, tokens) for tokens in steps}
    separate, joined = None, None
    if False in decisions:
        separate = _separate(arithmetic.pack_linear(router, None), gate_up, down, arithmetic)
    if True in decisions:
        gates_then_ups = gate_up.view(experts, 2, intermediate, hidden).transpose(0, 1)
        rows = torch.cat((router, gates_then_ups.reshape(-1, hidden)))
        side_by_side = down.transpose(0, 1).reshape(hidden, -1)
        joined = JoinedExperts(
            arithmetic.pack_linear(rows, None), arithmetic.pack_linear(side_by_side, None)
        )
    return PackedExperts(sizes, routing, arithmetic, separate, joined)


def pack_separate(
    router: Linear,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    arithmetic: Arithmetic,
) -> PackedExperts:
    """Pack every expert by itself, whatever the steps."""
    experts, hidden, intermediate = down.shape
    sizes = ExpertSizes(experts, routing.top_k, hidden, intermediate, down.dtype.itemsize)
    separate = _separate(router, gate_up, down, arithmetic)
    return PackedExperts(sizes, routing, arithmetic, separate, None)


def _separate(
    router: Linear, gate_up: torch.Tensor, down: torch.Tensor, arithmetic: Arithmetic
) -> SeparateExperts:
    return SeparateExperts(
        router,
        [arithmetic.pack_linear(own, None) for own in gate_up],
        [arithmetic.pack_linear(own, None) for own in down],
    )


def _compute_joined(x: torch.Tensor, joined: JoinedExperts, experts: PackedExperts) -> torch.Tensor:
    sizes = experts.sizes
    tokens, inner = x.shape[0], sizes.experts * sizes.intermediate
    logits, gate_up = joined.router_gate_up(x).split_with_sizes((sizes.experts, 2 * inner), dim=1)
    weights, chosen = _route(logits, experts)
    every = weights.new_zeros(tokens, sizes.experts).scatter_(1, chosen, weights).to(x.dtype)
    gated = experts.arithmetic.silu_mul(gate_up)
    # Weighted before the down projection, which then sums over the experts as well.
    gated.view(tokens, sizes.experts, -1).mul_(every.unsqueeze(-1))
    return joined.down(gated)


def _compute_hit(
    x: torch.Tensor, separate: SeparateExperts, experts: PackedExperts
) -> torch.Tensor:
    gated = experts.arithmetic.silu_mul
    weights, chosen = _route(separate.router(x), experts)
    tokens, top_k = chosen.shape
    by_expert = chosen.view(-1).argsort()
    counts = torch.bincount(chosen.view(-1), minlength=len(separate.down)).tolist()
    rows = x.index_select(0, by_expert // top_k).split_with_sizes(counts)
    outs = [
        down(gated(gate_up(own)))
        for gate_up, down, own in zip(separate.gate_up, separate.down, rows, strict=True)
        if own.shape[0]
    ]
    by_token = torch.empty(tokens * top_k, x.shape[1], dtype=x.dtype)
    by_token.index_copy_(0, by_expert, torch.cat(outs))
    pairs = by_token.view(tokens, top_k, -1).to(weights.dtype)
    return torch.bmm(weights.unsqueeze(1), pairs).squeeze(1).to(x.dtype)


def _route(
    router_logits: torch.Tensor, experts: PackedExperts
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts: their weights [tokens, top_k], and numbers [tokens, top_k]."""
    routing, logits = experts.routing, router_logits.to(experts.arithmetic.routing)
    if routing.renormalise:
        # Scaling a part of a softmax to sum to one is the softmax of that part.
        logits, chosen = logits.topk(routing.top_k, dim=-1)
        return logits.softmax(dim=-1), chosen
    weights, chosen = logits.softmax(dim=-1).topk(routing.top_k, dim=-1)
    return weights, chosen
