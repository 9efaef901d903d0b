"""Quantised layers in C: against the weights that they hold, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.kernels.operations import QUANTISED

from kernels.c.calls import Calls
from kernels.c.library import Library
from kernels.c.quantised import STRIP, QuantisedLinear
from kernels.cpu.quantised import (
    GROUP,
    LEVELS,
    round_activations,
    round_to_int4,
    round_to_int8,
)
from kernels.formats import WEIGHT_FORMATS

DTYPES = {torch.float32: 1e-4, torch.bfloat16: 5e-3, torch.float16: 1e-3}
SHAPES = [(1, 1), (16, 32), (33, 4), (37, 70), (70, 300)]


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def held(layer: QuantisedLinear, outputs: int, inputs: int) -> torch.Tensor:
    """The weights that a layer holds: [outputs, inputs] float64."""
    padded = -(-inputs // GROUP) * GROUP
    if layer.scales.dim() == 2:
        units = layer.packed.view(-1, padded // 4, STRIP, 4)
        levels = units.permute(0, 2, 1, 3).reshape(-1, padded).double() - 128
        return (levels * layer.scales.double().view(-1, 1))[:outputs, :inputs]
    both = layer.packed.view(-1, padded // 8, STRIP, 4)
    units = torch.stack((both & 15, both >> 4), 2).view(-1, padded // 4, STRIP, 4)
    indices = units.permute(0, 2, 1, 3).reshape(-1, padded).long()
    scales = layer.scales.double().permute(0, 2, 1).reshape(-1, padded // GROUP)
    levels = torch.tensor(LEVELS, dtype=torch.float64)[indices]
    return (levels * scales.repeat_interleave(GROUP, 1))[:outputs, :inputs]


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_as_pytorch_rounds_them(
    native_library: Library, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape).to(dtype)
    of_8 = QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS["int8"])
    of_4 = QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS["int4"])

    assert distance(held(of_8, *shape), round_to_int8(weight.float()).double()) < 1e-3
    # A number between two levels may fall to either.
    wrong = (held(of_4, *shape) - weight).norm()
    assert wrong <= 1.001 * (round_to_int4(weight.float()) - weight).norm() + 1e-6


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_a_plain_layer_of_the_weights_held(
    native_library: Library, name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    outputs, inputs = shape
    weight, bias = torch.randn(shape).to(dtype), torch.randn(outputs).to(dtype)
    layer = QuantisedLinear(Calls(native_library), weight, bias, WEIGHT_FORMATS[name])
    for tokens in (*range(14), 40, 48, 49, 100):
        x = torch.randn(tokens, inputs).to(dtype)
        rounded = round_activations(x.float()) if name == "w8a8" else x
        want = rounded.double() @ held(layer, *shape).T + bias.double()

        got = layer(x)

        assert got.dtype == dtype
        # Some activations lie between two steps and may be rounded either way.
        scale = (1.0 + want.abs().amax()) if tokens else 1.0
        tolerance = DTYPES[dtype] * scale + (0.05 * weight.abs().amax() if name == "w8a8" else 0)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=float(tolerance))


@pytest.mark.parametrize("name", QUANTISED)
def test_a_token_has_the_same_results_in_any_company(
    native_library: Library, threads: int, name: str
) -> None:
    layer = QuantisedLinear(
        Calls(native_library), torch.randn(300, 2000), None, WEIGHT_FORMATS[name]
    )
    x = torch.randn(110, 2000)

    together = layer(x)

    for tokens in (*range(1, 14), 60):
        assert torch.equal(layer(x[5 : 5 + tokens]), together[5 : 5 + tokens])


def test_rows_of_a_wider_tensor_are_read(native_library: Library) -> None:
    layer = QuantisedLinear(Calls(native_library), torch.randn(9, 6), None, WEIGHT_FORMATS["int8"])
    wide = torch.randn(7, 20)

    assert torch.equal(layer(wide[:, 3:9]), layer(wide[:, 3:9].contiguous()))
    assert torch.equal(layer(wide[:, ::3][:, :6]), layer(wide[:, ::3][:, :6].contiguous()))


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-4, 1e15])
def test_numbers_of_any_size_are_multiplied(
    native_library: Library, name: str, size: float
) -> None:
    weight, x = size * torch.randn(40, 64), torch.randn(3, 64) / max(size, 1e-30)
    layer = QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS[name])

    got = layer(x)

    want = x.double() @ held(layer, 40, 64).T
    assert torch.isfinite(got).all()
    assert (got - want).abs().max() <= 0.02 * want.abs().max()


@pytest.mark.parametrize("name", QUANTISED)
def test_empty_rows_give_zeros(native_library: Library, name: str) -> None:
    weight, x = torch.randn(33, 70), torch.randn(3, 70)
    weight[4], x[1] = 0, 0

    got = QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS[name])(x)

    assert not got[:, 4].any()
    assert not got[1].any()
    assert got[0, :4].all()


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_stays_so_in_its_row(
    native_library: Library, name: str, value: float
) -> None:
    weight, x = torch.randn(33, 70), torch.randn(3, 70)
    layer = QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS[name])
    spoilt = weight.clone()
    spoilt[7, 69] = x[1, 3] = value

    wrong_token = layer(x)
    wrong_output = QuantisedLinear(Calls(native_library), spoilt, None, WEIGHT_FORMATS[name])(x[:1])

    assert not torch.isfinite(wrong_token[1]).any()
    assert torch.isfinite(wrong_token[[0, 2]]).all()
    assert not torch.isfinite(wrong_output[0, 7])
    assert torch.isfinite(wrong_output[0, :7]).all()


def test_rows_of_another_width_or_type_are_refused(native_library: Library) -> None:
    layer = QuantisedLinear(Calls(native_library), torch.randn(9, 6), None, WEIGHT_FORMATS["int8"])

    with pytest.raises(ValueError, match="expected 6 wide"):
        layer(torch.randn(2, 7))
    with pytest.raises(ValueError, match="float64"):
        layer(torch.randn(2, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="int8"):
        weight = torch.zeros(3, 3, dtype=torch.int8)
        QuantisedLinear(Calls(native_library), weight, None, WEIGHT_FORMATS["int8"])
