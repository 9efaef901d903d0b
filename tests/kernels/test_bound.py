"""Operations are bound to the entries of a table, layer by layer where weights have formats."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.kernels.operations import compiled, in_torch
from torch.nn import functional

from kernels.c.library import Library
from kernels.c.linear import PackedLinear
from kernels.c.quantised import QuantisedLinear
from kernels.devices import UnsupportedDevice
from kernels.formats import DENSE, Dense, Fp8Block, Int4Group, Int8, KvInt8, WeightFormat
from kernels.layers import LinearContext
from kernels.ops import Operations
from kernels.reference import rows
from kernels.table import Table


class Delta:
    """A context that adds a low-rank product, as an adapter does."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        self.down, self.up = torch.randn(2, inputs).to(dtype), torch.randn(outputs, 2).to(dtype)

    def add(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out + functional.linear(functional.linear(x, self.down), self.up)


FORMATS: list[WeightFormat] = [DENSE, Int8(), Int4Group(), Int8(int8_activations=True)]
SETS: dict[str, Callable[[], Operations]] = {
    "float32": lambda: in_torch(torch.float32),
    "bfloat16": in_torch,
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_context_is_added_to_the_products_of_its_call(name: str, format: WeightFormat) -> None:
    ops, dtype = SETS[name](), getattr(torch, name)
    layer = ops.pack_linear(torch.randn(12, 8).to(dtype), None, format)
    x, delta = torch.randn(3, 8).to(dtype), Delta(8, 12, dtype)
    plain = layer(x)

    torch.testing.assert_close(layer(x, delta), delta.add(x, plain))
    assert torch.equal(layer(x), plain)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_compiled_layers_take_contexts_and_are_then_not_captured(
    native_library: Library, format: WeightFormat
) -> None:
    ops = compiled(native_library)
    layer = ops.pack_linear(torch.randn(12, 8).bfloat16(), None, format)
    assert isinstance(layer, PackedLinear | QuantisedLinear)
    x, delta = torch.randn(3, 8).bfloat16(), Delta(8, 12, torch.bfloat16)

    torch.testing.assert_close(layer(x, delta), delta.add(x, layer(x)))
    assert ops.capture(lambda: layer(x, delta)) is None
    assert ops.capture(lambda: layer(x)) is not None


def test_gates_take_a_context_before_their_activation_where_they_are_not_fused(
    native_library: Library,
) -> None:
    ops = compiled(native_library)
    weight, x = torch.randn(12, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    context: LinearContext = Delta(8, 12, torch.bfloat16)
    fused, apart = ops.pack_gated(weight, None), ops.pack_gated(weight, None, takes_context=True)

    products = context.add(x, functional.linear(x, weight))
    torch.testing.assert_close(apart(x, context), rows.silu_mul(products), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(apart(x), fused(x), rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="takes_context"):
        fused(x, context)


@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_gates_may_have_other_activations(activation: Any, approximate: Any) -> None:
    weight, x = torch.randn(12, 8), torch.randn(3, 8)

    got = in_torch(torch.float32).pack_gated(weight, None, activation=activation)(x)

    torch.testing.assert_close(got, rows.gelu_mul(functional.linear(x, weight), approximate))


def test_layers_of_one_model_have_the_products_of_their_formats(native_library: Library) -> None:
    ops = compiled(native_library, Int8())
    weight = torch.randn(12, 8).bfloat16()

    assert isinstance(ops.pack_linear(weight, None), QuantisedLinear)
    assert isinstance(ops.pack_linear(weight, None, DENSE), PackedLinear)
    assert isinstance(ops.pack_linear(weight, None, Int4Group()), QuantisedLinear)


def test_an_entry_takes_only_its_format_and_weights_and_the_first_is_preferred() -> None:
    table = Table("abacus")
    table.add_layer("pack_linear", lambda: "wide", Dense, lambda weight: weight.shape[0] > 2)
    table.add_layer("pack_linear", lambda: "any", Dense)
    table.add_layer("pack_linear", lambda: "int8", Int8)

    assert table.get("pack_linear", DENSE, torch.zeros(3, 1)).run() == "wide"
    assert table.get("pack_linear", DENSE, torch.zeros(2, 1)).run() == "any"
    assert table.get("pack_linear", Int8()).run() == "int8"


def test_what_a_table_lacks_is_refused_by_name() -> None:
    table = Table("abacus")

    with pytest.raises(UnsupportedDevice, match="'abacus' has no products of Fp8Block weights"):
        table.get("pack_linear", Fp8Block())
    with pytest.raises(UnsupportedDevice, match="'abacus' has no KvInt8 cache"):
        table.get("attention", KvInt8())
    with pytest.raises(UnsupportedDevice, match="'abacus' has no rms_norm"):
        table.get("rms_norm")


def test_a_holders_operations_are_entries_and_its_helpers_are_not() -> None:
    table = Table("abacus")

    table.add(SimpleNamespace(rms_norm=max, attention=min, widened=abs), KvInt8())

    assert [entry.operation for entry in table.entries] == ["rms_norm", "attention"]
    assert table.get("attention", KvInt8()).run is min
    assert table.find("attention", DENSE) is None
