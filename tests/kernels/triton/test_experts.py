"""Experts of a GPU: the oracle's sums, in shapes that no token's choice alters."""

from __future__ import annotations

import pytest
import torch
from support.kernels.attention_scenes import relative_error
from support.kernels.checks import DTYPES, assert_near

from kernels.ops import Routing
from kernels.reference.products import Experts
from kernels.reference.rows import silu_mul
from kernels.triton import experts as module
from kernels.triton.experts import GroupedExperts

# Of hidden, intermediate, experts, top_k.
SIZES = [(20, 6, 1, 1), (24, 14, 5, 2), (16, 8, 40, 4)]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}

Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def weights_of(sizes: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> Weights:
    hidden, inner, experts, _ = sizes
    router = torch.randn(experts, hidden, device=device)
    gate_up = torch.randn(experts, 2 * inner, hidden, device=device) / hidden**0.5
    down = torch.randn(experts, hidden, inner, device=device) / inner**0.5
    return router.to(dtype), gate_up.to(dtype), down.to(dtype)


def wanted(x: torch.Tensor, weights: Weights, routing: Routing) -> torch.Tensor:
    """The oracle's, of the same choice: scores are rounded as those of `x`."""
    router, gate_up, down = (weight.double() for weight in weights)
    return Experts(router, gate_up, down, routing)(x.double())


def apart(tokens: int, sizes: tuple[int, int, int, int], device: str) -> torch.Tensor:
    """Rows whose scores by a router of ones on the diagonal lie far apart."""
    hidden, _, experts, _ = sizes
    x = torch.randn(tokens, hidden, device=device) / 8
    for row in x:
        row[: min(hidden, experts)] = torch.randperm(min(hidden, experts), device=device) / 4
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_oracle(
    device: str,
    sizes: tuple[int, int, int, int],
    tokens: int,
    renormalise: bool,
    dtype: torch.dtype,
) -> None:
    routing = Routing(sizes[3], renormalise)
    _, gate_up, down = weights_of(sizes, device, dtype)
    router = torch.eye(sizes[2], sizes[0], device=device).to(dtype)
    weights, x = (router, gate_up, down), apart(tokens, sizes, device).to(dtype)

    got = GroupedExperts(*weights, routing)(x)

    assert got.dtype == dtype
    assert relative_error(got, wanted(x, weights, routing)) < TOLERANCES[dtype]


@pytest.mark.parametrize("tokens", [15, 16, 17, 130])
def test_all_tokens_may_choose_the_same_experts(device: str, tokens: int) -> None:
    sizes, routing = (24, 14, 6, 2), Routing(2, True)
    weights = weights_of(sizes, device, torch.float32)
    weights[0][3:] += 9
    x = torch.rand(tokens, 24, device=device)

    assert_near(GroupedExperts(*weights, routing)(x), wanted(x, weights, routing), 1e-5)


def test_weights_are_copied_in_pieces(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, routing = (24, 14, 5, 2), Routing(2, True)
    weights, x = weights_of(sizes, device, torch.float32), torch.randn(9, 24, device=device)
    whole = GroupedExperts(*weights, routing)(x)

    monkeypatch.setattr(module, "_COPIED_BYTES", 1)

    torch.testing.assert_close(GroupedExperts(*weights, routing)(x), whole)


def test_no_tokens_give_no_rows(device: str) -> None:
    weights = weights_of((24, 14, 5, 2), device, torch.bfloat16)
    x = torch.empty(0, 24, dtype=torch.bfloat16, device=device)

    assert GroupedExperts(*weights, Routing(2, True))(x).shape == (0, 24)


def test_nothing_depends_on_numbers_that_only_the_device_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tensors without numbers fail whatever reads one, as the oracle does."""
    monkeypatch.setattr(module, "silu_mul", silu_mul)
    weights = weights_of((24, 14, 5, 2), "meta", torch.bfloat16)
    x = torch.empty(33, 24, dtype=torch.bfloat16, device="meta")

    assert GroupedExperts(*weights, Routing(2, True))(x).shape == x.shape
    with pytest.raises(NotImplementedError, match="nonzero"):
        Experts(*weights, Routing(2, True))(x)
