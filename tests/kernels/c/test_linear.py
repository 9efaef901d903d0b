"""Packed products and experts against the oracle: odd sizes, any number of rows and threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.kernels.checks import assert_near

from kernels.c.linear import PackedLinear
from kernels.ops import Operations, Routing
from kernels.reference.operations import reference

# Tiles of each height, several tiles, several blocks.
ROWS = [*range(1, 14), 16, 24, 25, 61, 300]
SIZES = [(1, 2), (31, 64), (33, 62), (64, 130), (515, 60), (96, 2050)]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def operations(native_operations: Operations) -> Operations:
    return native_operations


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_rows_are_multiplied(
    operations: Operations, outputs: int, inputs: int, biased: bool
) -> None:
    weight = torch.randn(outputs, inputs).bfloat16()
    bias = torch.randn(outputs).bfloat16() if biased else None
    linear = operations.pack_linear(weight, bias)
    assert isinstance(linear, PackedLinear)
    for rows in ROWS:
        x = torch.randn(rows, inputs).bfloat16()
        want = torch.nn.functional.linear(
            x.double(), weight.double(), None if bias is None else bias.double()
        )
        assert_near(linear(x), want)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_gates_and_ups_are_multiplied_and_gated(
    operations: Operations, outputs: int, inputs: int, biased: bool
) -> None:
    weight = torch.randn(2 * outputs, inputs).bfloat16()
    bias = torch.randn(2 * outputs).bfloat16() if biased else None
    own = operations.pack_gated(weight, bias)
    assert isinstance(own, PackedLinear)
    oracle = reference.pack_gated(weight.double(), None if bias is None else bias.double())
    for rows in ROWS:
        x = torch.randn(rows, inputs).bfloat16()
        assert_near(own(x), oracle(x.double()))


@pytest.mark.parametrize("inputs", [61, 62])
def test_gates_and_ups_that_cannot_be_packed_are_left_to_pytorch(
    operations: Operations, inputs: int
) -> None:
    weight, x = torch.randn(14, inputs).half(), torch.randn(3, inputs).half()

    got = operations.pack_gated(weight, None)(x)

    assert_near(got, reference.pack_gated(weight.double(), None)(x.double()))


def test_rows_may_lie_apart(operations: Operations) -> None:
    weight, wide = torch.randn(40, 64).bfloat16(), torch.randn(5, 100).bfloat16()
    linear = operations.pack_linear(weight, None)

    assert torch.equal(linear(wide[:, 3:67]), linear(wide[:, 3:67].contiguous()))
    columns = torch.randn(64, 5).bfloat16().T
    assert torch.equal(linear(columns), linear(columns.contiguous()))


def test_no_rows_give_no_rows(operations: Operations) -> None:
    linear = operations.pack_linear(torch.randn(40, 64).bfloat16(), None)

    assert linear(torch.empty(0, 64, dtype=torch.bfloat16)).shape == (0, 40)


def test_what_is_not_read_may_be_anything(operations: Operations) -> None:
    linear = operations.pack_linear(torch.randn(33, 62).bfloat16(), None)
    around = torch.full((9, 80), float("nan"), dtype=torch.bfloat16)
    around[2:7, 10:72] = 1

    assert linear(around[2:7, 10:72]).isfinite().all()


def test_infinite_and_nan_inputs_stay_in_their_rows(operations: Operations) -> None:
    linear = operations.pack_linear(torch.ones(33, 62).bfloat16(), None)
    x = torch.ones(14, 62).bfloat16()
    x[3, 5], x[9, 61] = float("inf"), float("nan")

    out = linear(x)

    assert (out[3] == float("inf")).all()
    assert out[9].isnan().all()
    assert (out[[0, 1, 2, 4, 8, 10, 13]] == 62).all()


@pytest.mark.parametrize("inputs", [61, 62])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_cannot_be_packed_are_left_to_pytorch(
    operations: Operations, inputs: int, dtype: torch.dtype
) -> None:
    weight, x = torch.randn(7, inputs).to(dtype), torch.randn(3, inputs).to(dtype)
    linear = operations.pack_linear(weight, None)

    assert isinstance(linear, PackedLinear) == (inputs == 62 and dtype == torch.bfloat16)
    assert_near(linear(x), x.double() @ weight.double().T)


def test_rows_of_another_kind_are_refused(operations: Operations) -> None:
    linear = operations.pack_linear(torch.randn(40, 64).bfloat16(), None)

    with pytest.raises(ValueError, match="expected bfloat16 64"):
        linear(torch.randn(2, 62).bfloat16())
    with pytest.raises(ValueError, match="expected bfloat16 64"):
        linear(torch.randn(2, 64))


def scattered_router(experts: int, hidden: int) -> torch.Tensor:
    """One whose scores of a token lie so far apart that rounding does not change their order."""
    return torch.eye(hidden)[:experts].bfloat16()


def scattered_tokens(tokens: int, hidden: int, experts: int) -> torch.Tensor:
    x = torch.randn(tokens, hidden) * 0.5
    order = torch.stack([torch.randperm(experts) for _ in range(tokens)])
    x[:, :experts] = order / 4
    return x.bfloat16()


EXPERTS = [(64, 32, 5, 2), (60, 77, 3, 1), (130, 48, 40, 4), (256, 96, 8, 8)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("hidden", "intermediate", "experts", "top_k"), EXPERTS)
@pytest.mark.parametrize("renormalise", [True, False])
def test_each_token_goes_through_its_experts(
    operations: Operations,
    hidden: int,
    intermediate: int,
    experts: int,
    top_k: int,
    renormalise: bool,
) -> None:
    router = scattered_router(experts, hidden)
    gate_up = (torch.randn(experts, 2 * intermediate, hidden) / hidden**0.5).bfloat16()
    down = (torch.randn(experts, hidden, intermediate) / intermediate**0.5).bfloat16()
    routing = Routing(top_k, renormalise)
    packed = operations.pack_experts(router, gate_up, down, routing)
    oracle = reference.pack_experts(router.double(), gate_up.double(), down.double(), routing)
    for tokens in (1, 2, 13, 70):
        x = scattered_tokens(tokens, hidden, experts)
        want, got = oracle(x.double()), packed(x).double()
        # The rows between the two products are rounded, which the oracle's are not.
        assert ((got - want).norm(dim=1) <= 6e-3 * want.norm(dim=1)).all()


def test_a_token_of_nan_spoils_no_other(operations: Operations) -> None:
    router, gate_up = torch.randn(5, 64).bfloat16(), torch.randn(5, 64, 64).bfloat16()
    packed = operations.pack_experts(
        router, gate_up, torch.randn(5, 64, 32).bfloat16(), Routing(2, True)
    )
    x = torch.randn(4, 64).bfloat16()
    x[2] = float("nan")

    out = packed(x)

    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()


def test_tokens_of_another_width_are_refused(operations: Operations) -> None:
    weights = torch.randn(5, 64).bfloat16(), torch.randn(5, 64, 64).bfloat16()
    packed = operations.pack_experts(*weights, torch.randn(5, 64, 32).bfloat16(), Routing(2, True))

    with pytest.raises(ValueError, match="expected bfloat16 64"):
        packed(torch.randn(2, 62).bfloat16())
