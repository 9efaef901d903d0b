"""Layer norm against the oracle: ragged rows, strided rows, rows of several tiles."""

from __future__ import annotations

import pytest
import torch
from support.kernels.checks import DTYPES, assert_near

from kernels.reference import rows as reference_rows
from kernels.triton.configs import Config, forced
from kernels.triton.rows.layer_norm import layer_norm

BLOCK = 32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [77, 512])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_layer_norm(
    device: str, dtype: torch.dtype, hidden: int, with_bias: bool, with_residual: bool
) -> None:
    x, residual = torch.randn(2, 3, hidden, device=device).to(dtype)
    weight, bias = torch.randn(2, hidden, device=device).to(dtype)
    total = x + residual if with_residual else x.clone()
    wide_bias = bias.double() if with_bias else None
    want, _ = reference_rows.layer_norm(total.double(), weight.double(), wide_bias, 1e-5)

    got, got_total = layer_norm(
        x, weight, bias if with_bias else None, 1e-5, residual if with_residual else None
    )

    assert_near(got, want)
    assert torch.equal(got_total, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("with_residual", [True, False])
def test_layer_norm_of_rows_longer_than_a_tile(
    device: str, dtype: torch.dtype, hidden: int, with_residual: bool
) -> None:
    x, residual = torch.randn(2, 2, hidden, device=device).to(dtype)
    weight, bias = torch.randn(2, hidden, device=device).to(dtype)
    total = x + residual if with_residual else x.clone()
    want, _ = reference_rows.layer_norm(total.double(), weight.double(), bias.double(), 1e-5)

    with forced("layer_norm", Config({"BLOCK": BLOCK}, num_warps=1)):
        got, got_total = layer_norm(x, weight, bias, 1e-5, residual if with_residual else None)

    assert_near(got, want)
    assert torch.equal(got_total, total)


@pytest.mark.parametrize("block", [BLOCK, 128])
def test_layer_norm_far_from_zero_keeps_its_precision(device: str, block: int) -> None:
    x = torch.randn(2, 100, device=device) + 3000
    weight = torch.ones(100, device=device)
    want, _ = reference_rows.layer_norm(x.double(), weight.double(), None, 1e-5)

    with forced("layer_norm", Config({"BLOCK": block}, num_warps=1)):
        got, _ = layer_norm(x, weight, None, 1e-5)

    # A float32 near 3000 is itself known to 1e-4.
    assert_near(got, want, relative_l2=3e-4)


def test_layer_norm_of_strided_rows_leaves_what_lies_between_alone(device: str) -> None:
    wide, residual = torch.randn(3, 100, device=device), torch.randn(60, 3, device=device).T
    weight, bias = torch.randn(2, 60, device=device)
    x, before = wide[:, 20:80], wide.clone()
    total = x + residual
    want, _ = reference_rows.layer_norm(total.double(), weight.double(), bias.double(), 1e-6)

    got, got_total = layer_norm(x, weight, bias, 1e-6, residual)

    assert_near(got, want)
    assert torch.equal(got_total, total)
    assert torch.equal(wide[:, :20], before[:, :20])
    assert torch.equal(wide[:, 80:], before[:, 80:])


def test_layer_norm_of_no_rows(device: str) -> None:
    weight = torch.ones(40, device=device)

    got, total = layer_norm(torch.empty(0, 40, device=device), weight, None, 1e-5)

    assert got.shape == total.shape == (0, 40)


def test_layer_norm_refuses_what_belongs_to_other_rows(device: str) -> None:
    x, weight = torch.zeros(2, 40, device=device), torch.ones(40, device=device)

    with pytest.raises(ValueError, match="weights"):
        layer_norm(x, weight[:1], None, 1e-5)
    with pytest.raises(ValueError, match="biases"):
        layer_norm(x, weight, weight[:1], 1e-5)
    with pytest.raises(ValueError, match="residual"):
        layer_norm(x, weight, None, 1e-5, x[:1])


def test_layer_norm_sees_the_sum_as_the_next_layer_will(device: str) -> None:
    residual = torch.full((2, 64), 256.0, dtype=torch.bfloat16, device=device)
    # Less than half the distance between 256 and the next bfloat16.
    x = (torch.rand(2, 64, device=device) * 0.4).bfloat16()
    weight = torch.ones(64, dtype=torch.bfloat16, device=device)

    got, total = layer_norm(x, weight, None, 1e-5, residual)

    assert torch.equal(total, torch.full_like(total, 256.0))
    assert torch.equal(got, torch.zeros_like(got))
