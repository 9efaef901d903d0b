"""Rounding to 8 and 4 bits in PyTorch, and the set of operations whose layers are rounded."""

from __future__ import annotations

import pytest
import torch
from support.kernels.operations import QUANTISED, in_torch
from torch.nn import functional

from kernels.cpu.quantised import (
    round_activations,
    round_to_int4,
    round_to_int8,
)
from kernels.devices import UnsupportedDevice
from kernels.formats import DENSE, WEIGHT_FORMATS, Int4Group, Int8
from kernels.ops import Routing
from kernels.reference.operations import reference

ROUNDED = {"int8": round_to_int8, "int4": round_to_int4, "w8a8": round_to_int8}


def test_int8_is_within_half_a_step_of_the_greatest_of_its_row() -> None:
    weight = torch.randn(9, 70) * torch.logspace(-6, 6, 9)[:, None]

    error = (round_to_int8(weight) - weight).abs()

    step = weight.abs().amax(1, keepdim=True) / 127
    assert (error <= 0.5001 * step).all()


def test_int4_costs_normal_weights_what_sixteen_levels_must() -> None:
    weight = torch.randn(64, 320)

    error = round_to_int4(weight) - weight

    # A third less than uniform levels between the extremes of a group leave.
    assert error.norm() / weight.norm() < 0.08


def test_int4_keeps_what_its_levels_can_say() -> None:
    weight = torch.tensor([[-127.0, 113.0, 2.0, -11.0, 55.0, -65.0] * 8]) * 0.25

    assert torch.equal(round_to_int4(weight), weight)


@pytest.mark.parametrize("rounding", [round_to_int8, round_to_int4, round_activations])
def test_zeros_and_numbers_too_small_for_a_scale_become_zeros(rounding) -> None:
    x = torch.zeros(3, 40)
    x[1] = 1e-38

    assert torch.equal(rounding(x), torch.zeros(3, 40))


def test_activations_have_a_scale_for_each_token_and_block() -> None:
    x = torch.randn(5, 300)
    x[2, 7] = 1000.0

    error = (round_activations(x) - x).abs()

    assert error[2, :128].max() > 1
    error[2, :128] = 0
    assert error.max() < 0.02


@pytest.mark.parametrize("name", QUANTISED)
def test_without_a_library_layers_are_rounded_ones_of_the_other_set(name: str) -> None:
    weight, bias, x = torch.randn(33, 70), torch.randn(33), torch.randn(4, 70)
    ops = in_torch(torch.float32, WEIGHT_FORMATS[name])

    got = ops.pack_linear(weight, bias)(x)

    rounded = round_activations(x) if name == "w8a8" else x
    torch.testing.assert_close(got, functional.linear(rounded, ROUNDED[name](weight), bias))


@pytest.mark.parametrize("name", QUANTISED)
def test_experts_are_rounded_and_their_router_is_not(name: str) -> None:
    gate_up, down = torch.randn(5, 26, 20), torch.randn(5, 20, 13)
    x, router, routing = torch.randn(7, 20), torch.randn(5, 20), Routing(2, True)
    ops = in_torch(torch.float32, WEIGHT_FORMATS[name])
    rounded = [
        torch.stack([ROUNDED[name](own) for own in weights]).double() for weights in (gate_up, down)
    ]
    want = reference.pack_experts(router.double(), *rounded, routing)(x.double())

    got = ops.pack_experts(router, gate_up, down, routing)(x)

    assert (got - want).norm() / want.norm() < (2e-2 if name == "w8a8" else 1e-6)


def test_layers_of_one_model_may_have_different_formats() -> None:
    weight, x = torch.randn(33, 70), torch.randn(4, 70)
    ops = in_torch(torch.float32)

    dense, int8, int4 = (
        ops.pack_linear(weight, None, format)(x) for format in (DENSE, Int8(), Int4Group())
    )

    torch.testing.assert_close(dense, functional.linear(x, weight))
    torch.testing.assert_close(int8, functional.linear(x, round_to_int8(weight)))
    torch.testing.assert_close(int4, functional.linear(x, round_to_int4(weight)))


def test_groups_of_another_size_are_refused() -> None:
    with pytest.raises(UnsupportedDevice, match="groups of 128 inputs: use groups of 32"):
        in_torch().pack_linear(torch.randn(4, 8), None, Int4Group(128))
