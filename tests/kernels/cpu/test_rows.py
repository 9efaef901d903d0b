"""Row operations against the oracle, on slices of fused tensors and on poisoned caches."""

from __future__ import annotations

import pytest
import torch

from kernels import cpu, reference
from kernels.cpu.rows import FEW_ROWS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# A result is rounded once in its dtype, the oracle here is float64.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}


def assert_near(got: torch.Tensor, want: torch.Tensor, roundings: int = 1) -> None:
    error = (got.double() - want).norm() / want.norm()
    assert error < roundings * TOLERANCES[got.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm(dtype: torch.dtype, tokens: int, with_residual: bool) -> None:
    x, residual = torch.randn(2, tokens, 77).to(dtype)
    weight = torch.randn(77).to(dtype)
    added = residual if with_residual else None
    want, want_sum = reference.rms_norm(
        x.double(), weight.double(), 1e-5, residual.double() if with_residual else None
    )

    got, got_sum = cpu.rms_norm(x.clone(), weight, 1e-5, added)

    assert_near(got, want, roundings=2)
    assert_near(got_sum, want_sum)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_heads_on_a_slice_leaves_the_rest_alone(dtype: torch.dtype) -> None:
    fused = torch.randn(6, 7, 20).to(dtype)
    weight = torch.randn(5, 20).to(dtype)
    want = fused.double()
    reference.norm_heads(want[:, :5], weight.double(), 1e-6)
    before = fused.clone()

    cpu.norm_heads(fused[:, :5], weight, 1e-6)

    assert_near(fused[:, :5], want[:, :5])
    assert torch.equal(fused[:, 5:], before[:, 5:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(4, 64), (3, 20), (1, 2)])
def test_rope_on_a_slice_leaves_the_rest_alone(
    dtype: torch.dtype, heads: int, head_dim: int
) -> None:
    table, positions = torch.randn(50, head_dim), torch.tensor([49, 0, 7, 7])
    fused = torch.randn(4, heads + 2, head_dim).to(dtype)
    want, before = fused.double(), fused.clone()
    reference.rope(want[:, :heads], reference.rope_angles(table, positions))

    cpu.rope(fused[:, :heads], cpu.rope_angles(table, positions))

    assert_near(fused[:, :heads], want[:, :heads])
    assert torch.equal(fused[:, heads:], before[:, heads:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_kv_writes_its_slots_and_no_other(dtype: torch.dtype) -> None:
    fused = torch.randn(5, 6, 20).to(dtype)
    slots = torch.randperm(9)[:5]
    got = [torch.full((9, 2, 20), float("nan"), dtype=dtype) for _ in range(2)]
    want = [cache.clone() for cache in got]

    cpu.store_kv(fused[:, 2:4], fused[:, 4:], slots, *got)
    reference.store_kv(fused[:, 2:4], fused[:, 4:], slots, *want)

    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_and_embedding(dtype: torch.dtype) -> None:
    gate_up, table = torch.randn(3, 26).to(dtype), torch.randn(11, 8).to(dtype)
    ids = torch.tensor([10, 0, 10])

    assert_near(cpu.silu_mul(gate_up.clone()), reference.silu_mul(gate_up.double()), roundings=2)
    assert torch.equal(cpu.embedding(ids, table), reference.embedding(ids, table))
