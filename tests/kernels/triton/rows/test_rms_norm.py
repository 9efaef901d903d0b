"""Root mean square norms against the oracle: ragged rows, strided rows, rows of several tiles."""

from __future__ import annotations

import pytest
import torch
from support.kernels.checks import DTYPES, assert_near

from kernels.reference.operations import reference
from kernels.triton.configs import Config, forced
from kernels.triton.rows.rms_norm import norm_heads, rms_norm

BLOCK = 32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [1, 77, 512, 1000])
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm(device: str, dtype: torch.dtype, hidden: int, with_residual: bool) -> None:
    x, residual = torch.randn(2, 3, hidden, device=device).to(dtype)
    weight = torch.randn(hidden, device=device).to(dtype)
    total = x + residual if with_residual else x.clone()
    want, _ = reference.rms_norm(total.double(), weight.double(), 1e-5)

    got, got_total = rms_norm(x, weight, 1e-5, residual if with_residual else None)

    assert_near(got, want)
    assert torch.equal(got_total, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm_of_rows_longer_than_a_tile(
    device: str, dtype: torch.dtype, hidden: int, with_residual: bool
) -> None:
    x, residual = torch.randn(2, 2, hidden, device=device).to(dtype)
    weight = torch.randn(hidden, device=device).to(dtype)
    total = x + residual if with_residual else x.clone()
    want, _ = reference.rms_norm(total.double(), weight.double(), 1e-5)

    with forced("rms_norm", Config({"BLOCK": BLOCK}, num_warps=1)):
        got, got_total = rms_norm(x, weight, 1e-5, residual if with_residual else None)

    assert_near(got, want)
    assert torch.equal(got_total, total)


def test_rms_norm_of_strided_rows_leaves_what_lies_between_alone(device: str) -> None:
    wide, residual = torch.randn(3, 100, device=device), torch.randn(60, 3, device=device).T
    weight = torch.randn(60, device=device)
    x, before = wide[:, 20:80], wide.clone()
    total = x + residual
    want, _ = reference.rms_norm(total.double(), weight.double(), 1e-6)

    got, got_total = rms_norm(x, weight, 1e-6, residual)

    assert_near(got, want)
    assert torch.equal(got_total, total)
    assert torch.equal(wide[:, :20], before[:, :20])
    assert torch.equal(wide[:, 80:], before[:, 80:])


def test_rms_norm_of_large_values_does_not_overflow(device: str) -> None:
    x = torch.full((2, 64), 60_000.0, dtype=torch.float16, device=device)

    got, _ = rms_norm(x, torch.ones(64, dtype=torch.float16, device=device), 1e-5)

    assert_near(got, torch.ones(2, 64, dtype=torch.float64))


def test_rms_norm_of_a_zero_row_is_zero(device: str) -> None:
    got, _ = rms_norm(torch.zeros(1, 40, device=device), torch.ones(40, device=device), 1e-5)

    assert torch.equal(got, torch.zeros(1, 40, device=device))


@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm_of_no_rows(device: str, with_residual: bool) -> None:
    x = torch.empty(0, 40, device=device)

    got, total = rms_norm(x, torch.ones(40, device=device), 1e-5, x if with_residual else None)

    assert got.shape == total.shape == (0, 40)


def test_rms_norm_refuses_weights_or_residuals_of_other_rows(device: str) -> None:
    x = torch.zeros(2, 40, device=device)

    with pytest.raises(ValueError, match="weights"):
        rms_norm(x, torch.ones(1, device=device), 1e-5)
    with pytest.raises(ValueError, match="residual"):
        rms_norm(x, torch.ones(40, device=device), 1e-5, x[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 64), (8, 20), (11, 128)])
def test_norm_heads_on_a_slice_leaves_the_rest_alone(
    device: str, dtype: torch.dtype, heads: int, head_dim: int
) -> None:
    fused = torch.randn(3, heads + 2, head_dim, device=device).to(dtype)
    weight = torch.randn(heads, head_dim, device=device).to(dtype)
    want, before = fused[:, :heads].double(), fused.clone()
    reference.norm_heads(want, weight.double(), 1e-6)

    norm_heads(fused[:, :heads], weight, 1e-6)

    assert_near(fused[:, :heads], want)
    assert torch.equal(fused[:, heads:], before[:, heads:])


def test_norm_heads_takes_any_strides(device: str) -> None:
    heads = torch.randn(20, 3, 5, device=device).permute(2, 1, 0)
    weight = torch.randn(1, 20, device=device).expand(3, 20)
    want = heads.double()
    reference.norm_heads(want, weight.double(), 1e-6)

    norm_heads(heads, weight, 1e-6)

    assert_near(heads, want)


def test_norm_heads_refuses_weights_of_other_heads(device: str) -> None:
    norm_heads(torch.empty(0, 2, 8, device=device), torch.ones(2, 8, device=device), 1e-6)

    with pytest.raises(ValueError, match="weights"):
        norm_heads(torch.zeros(1, 2, 8, device=device), torch.ones(1, 8, device=device), 1e-6)
