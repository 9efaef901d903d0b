"""Gated activations against the oracle, on strided rows and rows of several tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.kernels.checks import DTYPES, assert_near

from kernels.reference import rows as reference_rows
from kernels.reference.operations import reference
from kernels.triton.configs import Config, forced
from kernels.triton.rows.activations import gelu_mul, silu_mul

BLOCK = 32
Gated = Callable[..., torch.Tensor]

ACTIVATIONS = {
    "silu": ("silu_mul", silu_mul, reference.silu_mul),
    "gelu tanh": ("gelu_mul", gelu_mul, partial(reference_rows.gelu_mul, approximate="tanh")),
    "gelu exact": (
        "gelu_mul",
        partial(gelu_mul, approximate="none"),
        partial(reference_rows.gelu_mul, approximate="none"),
    ),
}
each_activation = pytest.mark.parametrize(
    ("name", "gated", "oracle"), ACTIVATIONS.values(), ids=ACTIVATIONS
)


@each_activation
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_gate_times_up(
    device: str, name: str, gated: Gated, oracle: Gated, dtype: torch.dtype, columns: int
) -> None:
    gate_up = (3 * torch.randn(3, 2 * columns, device=device)).to(dtype)

    with forced(name, Config({"BLOCK": BLOCK}, num_warps=1)):
        got = gated(gate_up)

    assert_near(got, oracle(gate_up.double()))


@each_activation
def test_rows_may_be_strided_and_go_where_they_are_told(
    device: str, name: str, gated: Gated, oracle: Gated
) -> None:
    gate_up = torch.randn(120, 3, device=device).T[:, 20:100]
    buffer = torch.zeros(3, 2, 40, device=device)

    got = gated(gate_up, out=buffer[:, 1])

    assert_near(got, oracle(gate_up.double()))
    assert torch.equal(buffer[:, 1], got)
    assert torch.equal(buffer[:, 0], torch.zeros(3, 40, device=device))


@each_activation
def test_far_from_zero_gates_are_open_or_shut(
    device: str, name: str, gated: Gated, oracle: Gated
) -> None:
    gate = torch.tensor([[200.0, -200.0, 1e4, -1e4]], dtype=torch.bfloat16, device=device)

    got = gated(torch.cat((gate, torch.ones_like(gate)), dim=1))

    assert torch.equal(got, gate.clamp(min=0))


@each_activation
def test_no_rows(device: str, name: str, gated: Gated, oracle: Gated) -> None:
    assert gated(torch.empty(0, 8, device=device)).shape == (0, 4)


@each_activation
def test_rows_that_cannot_be_halved_or_put_are_refused(
    device: str, name: str, gated: Gated, oracle: Gated
) -> None:
    with pytest.raises(ValueError, match="gate and up"):
        gated(torch.zeros(2, 7, device=device))
    with pytest.raises(ValueError, match="out"):
        gated(torch.zeros(2, 8, device=device), out=torch.zeros(2, 3, device=device))
