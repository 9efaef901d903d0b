"""Layers without gates: the activation of a product, on every CPU set and the oracle."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.nn import functional

from kernels.layers import Activation
from kernels.ops import Operations
from kernels.reference.operations import reference
from kernels.select import operations_for

WANTED = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def operations_on(device: str, dtype: torch.dtype) -> Operations:
    return reference if device == "reference" else operations_for(device, dtype)


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize(
    ("device", "dtype", "close"),
    [
        ("reference", torch.float64, 1e-6),
        ("cpu", torch.float32, 1e-6),
        ("cpu", torch.bfloat16, 2e-2),
    ],
)
def test_products_are_activated(
    activation: Activation, device: str, dtype: torch.dtype, close: float
) -> None:
    ops = operations_on(device, dtype)
    weight, bias, x = (torch.randn(shape).to(dtype) for shape in ((33, 20), (33,), (5, 20)))
    gates = torch.randn(66, 20).to(dtype)

    activated = ops.pack_activated(weight, bias, activation=activation)(x)
    gated = ops.pack_gated(gates, None, activation=activation)(x)

    want = WANTED[activation](x.double() @ weight.double().T + bias.double())
    torch.testing.assert_close(activated.double(), want, rtol=close, atol=close)
    gate, up = (x.double() @ gates.double().T).chunk(2, dim=1)
    torch.testing.assert_close(
        gated.double(), WANTED[activation](gate) * up, rtol=2 * close, atol=2 * close
    )


@pytest.mark.parametrize("activation", get_args(Activation))
def test_a_row_in_float32_does_not_depend_on_the_others(activation: Activation) -> None:
    ops = operations_for("cpu", torch.float32)
    layer = ops.pack_activated(torch.randn(37, 20), None, activation=activation)
    x = torch.randn(9, 20)

    assert torch.equal(torch.cat([layer(row[None]) for row in x]), layer(x))
