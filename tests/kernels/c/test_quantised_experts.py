"""Quantised experts in C: against the oracle with rounded weights, and a layer for each expert."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from support.kernels.operations import QUANTISED, compiled

from kernels.c.calls import Calls
from kernels.c.library import Library
from kernels.c.quantised import QuantisedLinear
from kernels.c.quantised_experts import QuantisedExperts
from kernels.cpu.entries import pack_each
from kernels.cpu.experts import PackedExperts
from kernels.cpu.quantised import (
    round_to_int4,
    round_to_int8,
)
from kernels.formats import WEIGHT_FORMATS
from kernels.layers import Experts
from kernels.ops import Operations, Routing
from kernels.reference.operations import reference

# Of hidden, intermediate, experts, top_k.
SIZES = [(5, 3, 1, 1), (70, 33, 3, 2), (256, 96, 8, 2), (130, 17, 64, 4), (300, 150, 4, 3)]
TOKENS = [0, 1, 2, 33]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDED = {"int8": round_to_int8, "int4": round_to_int4, "w8a8": round_to_int8}
# The rows between the two products are rounded as activations are, which the oracle's are not.
TOLERANCES = {"int8": 1e-3, "int4": 2e-2, "w8a8": 3e-2}
# What comes out is rounded, and there all that lies between the products.
STEPS = {torch.float32: 1e-4, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}

Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def in_threads(threads: int, experts: QuantisedExperts, x: torch.Tensor) -> torch.Tensor:
    """What `experts` make of `x`, in so many threads; all else is computed in one."""
    torch.set_num_threads(threads)
    try:
        return experts(x)
    finally:
        torch.set_num_threads(1)


@cache
def oracle_for(
    name: str, sizes: tuple[int, int, int, int], routing: Routing
) -> tuple[Weights, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The weights of a layer; tokens, and what the oracle makes of them with rounded weights."""
    router, gate_up, down = weights_of(sizes)
    rounded = [
        torch.stack([ROUNDED[name](own) for own in weights]).double() for weights in (gate_up, down)
    ]
    oracle = reference.pack_experts(router.double(), *rounded, routing)
    steps = [tokens_for(tokens, sizes) for tokens in TOKENS]
    return (router, gate_up, down), [(x, oracle(x.double())) for x in steps]


def weights_of(sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> Weights:
    """Those of a layer, with a router whose scores of a token lie far apart."""
    hidden, intermediate, experts, _ = sizes
    gate_up = torch.randn(experts, 2 * intermediate, hidden) / hidden**0.5
    down = torch.randn(experts, hidden, intermediate) / intermediate**0.5
    return torch.eye(experts, hidden).to(dtype), gate_up.to(dtype), down.to(dtype)


def tokens_for(
    tokens: int, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    hidden, _, experts, _ = sizes
    x = torch.randn(tokens, hidden) * 0.5
    for row in x:
        row[:experts] = torch.randperm(experts) / 4
    return x.to(dtype)


def distances(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Of each token, over how long rows are."""
    rows = want.double().norm(dim=1)
    return (got.double() - want.double()).norm(dim=1) / rows.clamp(min=rows.square().mean().sqrt())


def each_by_itself(library: Library, dtype: torch.dtype) -> Callable[..., Experts]:
    """Experts in PyTorch around a compiled layer for each."""
    return partial(pack_each, partial(QuantisedLinear, Calls(library)), dtype)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", QUANTISED)
def test_equals_the_oracle_with_rounded_weights(
    native_library: Library, name: str, sizes: tuple[int, int, int, int], renormalise: bool
) -> None:
    routing = Routing(sizes[3], renormalise)
    weights, steps = oracle_for(name, sizes, routing)
    packed = QuantisedExperts(Calls(native_library), *weights, routing, WEIGHT_FORMATS[name])
    for x, want in steps:
        for threads in (1, 2):
            got = in_threads(threads, packed, x)

            assert got.shape == want.shape
            assert (distances(got, want) < TOLERANCES[name]).all()


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_a_quantised_layer_for_each_expert(
    native_library: Library, name: str, dtype: torch.dtype, sizes: tuple[int, int, int, int]
) -> None:
    weights, routing = weights_of(sizes, dtype), Routing(sizes[3], True)
    pack = each_by_itself(native_library, dtype)
    apart = pack(*weights, routing, WEIGHT_FORMATS[name])
    packed = QuantisedExperts(Calls(native_library), *weights, routing, WEIGHT_FORMATS[name])
    for tokens in TOKENS[1:]:
        x = tokens_for(tokens, sizes, dtype)

        got = packed(x)

        assert got.dtype == dtype
        # A number between two steps of int8 may be rounded either way.
        tolerance = STEPS[dtype] + (2e-2 if name == "w8a8" else 0)
        assert (distances(got, apart(x)) < tolerance).all()


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_has_the_same_results_in_any_company(
    native_library: Library, name: str, dtype: torch.dtype
) -> None:
    weights = weights_of((300, 150, 5, 2), dtype)
    weights[0].normal_()
    packed = QuantisedExperts(
        Calls(native_library), *weights, Routing(2, False), WEIGHT_FORMATS[name]
    )
    x = torch.randn(80, 300).to(dtype)

    together = in_threads(2, packed, x)

    assert torch.equal(packed(x), together)
    for tokens in (*range(1, 14), 40):
        assert torch.equal(packed(x[7 : 7 + tokens]), together[7 : 7 + tokens])


@pytest.mark.parametrize("name", QUANTISED)
def test_all_tokens_may_go_to_one_expert(native_library: Library, name: str) -> None:
    sizes, routing = (64, 48, 6, 1), Routing(1, True)
    router, gate_up, down = weights_of(sizes)
    calls = Calls(native_library)
    packed = QuantisedExperts(calls, router, gate_up, down, routing, WEIGHT_FORMATS[name])
    lone = (router[4:5], gate_up[4:5], down[4:5])
    x = torch.randn(70, 64)
    x[:, 4] = 9

    got = packed(x)

    assert torch.equal(got, QuantisedExperts(calls, *lone, routing, WEIGHT_FORMATS[name])(x))


@pytest.mark.parametrize("name", QUANTISED)
def test_what_is_recorded_computes_the_same(native_library: Library, name: str) -> None:
    sizes, calls = (70, 33, 5, 2), Calls(native_library)
    packed = QuantisedExperts(calls, *weights_of(sizes), Routing(2, True), WEIGHT_FORMATS[name])
    x, other = tokens_for(9, sizes), tokens_for(9, sizes)
    want = packed(packed(x)), packed(packed(other))

    captured = calls.capture(lambda: packed(packed(x)))

    assert captured is not None
    assert torch.equal(captured.replay(), want[0])
    x.copy_(other)
    assert torch.equal(captured.replay(), want[1])


@pytest.mark.parametrize("name", QUANTISED)
def test_a_layer_of_the_compiled_set_is_captured(native_operations: Operations, name: str) -> None:
    sizes, weights = (64, 32, 4, 2), weights_of((64, 32, 4, 2), torch.bfloat16)
    ops = compiled(native_operations.recorder.library, WEIGHT_FORMATS[name])
    linear, experts = (
        ops.pack_linear(weights[2][0], None),
        ops.pack_experts(*weights, Routing(2, True)),
    )
    x = tokens_for(3, sizes, torch.bfloat16)[:, :32].contiguous()

    captured = ops.capture(lambda: experts(linear(x)))

    assert captured is not None
    assert torch.equal(captured.replay(), experts(linear(x)))


def test_experts_in_pytorch_are_not_captured(native_library: Library) -> None:
    ops = compiled(native_library)
    weights = weights_of((7, 4, 2, 1), torch.bfloat16)
    experts = ops.pack_experts(*weights, Routing(1, True))
    assert isinstance(experts, PackedExperts)
    x = torch.randn(3, 7).bfloat16()

    assert ops.capture(lambda: experts(x)) is None
    assert ops.capture(lambda: ops.take_rows(x, torch.tensor([1]))) is None


def test_a_token_of_nan_spoils_no_other(native_library: Library) -> None:
    sizes = (64, 32, 5, 2)
    packed = QuantisedExperts(
        Calls(native_library), *weights_of(sizes), Routing(2, True), WEIGHT_FORMATS["int8"]
    )
    x = tokens_for(4, sizes)
    x[2] = torch.nan

    out = packed(x)

    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()


def test_large_gates_are_finite(native_library: Library) -> None:
    router, gate_up, down = weights_of((32, 16, 1, 1))
    x = torch.randn(4, 32) * 1e4
    packed = QuantisedExperts(
        Calls(native_library), router, gate_up, down, Routing(1, True), WEIGHT_FORMATS["int8"]
    )
    rounded = [round_to_int8(weights[0]).double()[None] for weights in (gate_up, down)]
    oracle = reference.pack_experts(router.double(), *rounded, Routing(1, True))

    assert (distances(packed(x), oracle(x.double())) < 1e-3).all()


def test_rows_may_lie_apart(native_library: Library) -> None:
    sizes = (60, 32, 5, 2)
    packed = QuantisedExperts(
        Calls(native_library), *weights_of(sizes), Routing(2, True), WEIGHT_FORMATS["int4"]
    )
    wide = torch.randn(5, 100)

    assert torch.equal(packed(wide[:, 3:63]), packed(wide[:, 3:63].contiguous()))


def test_rows_of_another_width_or_type_are_refused(native_library: Library) -> None:
    packed = QuantisedExperts(
        Calls(native_library), *weights_of((64, 32, 5, 2)), Routing(2, True), WEIGHT_FORMATS["int8"]
    )

    with pytest.raises(ValueError, match=r"expected torch\.float32 64"):
        packed(torch.randn(2, 62))
    with pytest.raises(ValueError, match="bfloat16: expected"):
        packed(torch.randn(2, 64).bfloat16())
