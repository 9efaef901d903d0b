"""Experts against the oracle, both ways of computing them, and the choice between the two."""

from __future__ import annotations

import pytest
import torch

from kernels.cpu import experts
from kernels.cpu.experts import ExpertSizes, all_pay
from kernels.ops import Routing
from kernels.reference.operations import reference

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
SMALL = ExpertSizes(experts=8, top_k=2, hidden=256, intermediate=96, itemsize=2)
LARGE = ExpertSizes(experts=8, top_k=2, hidden=1024, intermediate=1792, itemsize=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 37])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("routing", [Routing(2, True), Routing(3, False), Routing(1, False)])
def test_equals_the_oracle_either_way(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    tokens: int,
    together: bool,
    routing: Routing,
) -> None:
    monkeypatch.setattr(experts, "all_pay", lambda sizes, tokens: together)
    gate_up, down = torch.randn(5, 26, 20).to(dtype), torch.randn(5, 20, 13).to(dtype)
    x, router = torch.randn(tokens, 20).to(dtype), (0.2 * torch.randn(5, 20)).to(dtype)
    oracle = reference.pack_experts(router.double(), gate_up.double(), down.double(), routing)
    want = oracle(x.double())

    packed = experts.pack_experts(router, gate_up, down, routing)
    got = packed(x)

    assert (packed.joined is not None, packed.separate is not None) == (together, not together)
    assert got.dtype == dtype
    assert (got.double() - want).norm() / want.norm() < TOLERANCES[dtype]


def test_an_expert_that_nobody_chose_changes_nothing() -> None:
    gate_up, down = torch.randn(3, 8, 4), torch.randn(3, 4, 4)
    x, router = torch.rand(6, 4), torch.tensor([[5.0], [4.0], [-5.0]]).repeat(1, 4)
    others = gate_up.clone()
    others[2] *= 100

    with_one = experts.pack_experts(router, gate_up, down, Routing(2, True))(x)
    with_other = experts.pack_experts(router, others, down, Routing(2, True))(x)

    assert torch.equal(with_one, with_other)


def test_small_experts_are_computed_together_and_large_ones_apart() -> None:
    assert all(all_pay(SMALL, tokens) for tokens in (1, 8, 64))
    assert not any(all_pay(LARGE, tokens) for tokens in (1, 8, 64, 512))
