"""Row operations against the oracle, on slices of fused tensors and on poisoned caches."""

from __future__ import annotations

import pytest
import torch
from support.kernels.operations import in_torch

from kernels.attention_options import KvScales
from kernels.c.rows import NativeRows
from kernels.cpu.rows import FEW_ROWS
from kernels.ops import Operations
from kernels.reference.attention import store_kv_int8
from kernels.reference.operations import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# A result is rounded once in its dtype, the oracle here is float64.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}


def assert_near(got: torch.Tensor, want: torch.Tensor, roundings: int = 1) -> None:
    error = (got.double() - want).norm() / want.norm()
    assert error < roundings * TOLERANCES[got.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("hidden", [7, 77, 256])
@pytest.mark.parametrize("with_residual", [True, False])
def test_rms_norm(
    operations: Operations, dtype: torch.dtype, tokens: int, hidden: int, with_residual: bool
) -> None:
    x, residual = torch.randn(2, tokens, hidden).to(dtype)
    weight = torch.randn(hidden).to(dtype)
    added = residual if with_residual else None
    want, want_sum = reference.rms_norm(
        x.double(), weight.double(), 1e-5, residual.double() if with_residual else None
    )

    got, got_sum = operations.rms_norm(x.clone(), weight, 1e-5, added)

    assert_near(got, want, roundings=2)
    assert_near(got_sum, want_sum)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_layer_norm(
    operations: Operations, dtype: torch.dtype, with_bias: bool, with_residual: bool
) -> None:
    x, residual = torch.randn(2, 3, 77).to(dtype)
    weight, bias = torch.randn(2, 77).to(dtype)
    total = x + residual if with_residual else x
    wide_bias = bias.double() if with_bias else None
    want, _ = reference.layer_norm(total.double(), weight.double(), wide_bias, 1e-5)
    ops = in_torch(torch.float32) if dtype == torch.float32 else operations

    got, got_total = ops.layer_norm(
        x.clone(), weight, bias if with_bias else None, 1e-5, residual if with_residual else None
    )

    assert got.dtype == dtype
    assert_near(got, want)
    assert torch.equal(got_total, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_mul(operations: Operations, dtype: torch.dtype, approximate: str) -> None:
    gate_up = torch.randn(5, 26).to(dtype)
    want = reference.gelu_mul(gate_up.double(), approximate)
    ops = in_torch(torch.float32) if dtype == torch.float32 else operations

    got = ops.gelu_mul(gate_up, approximate)

    assert got.dtype == dtype
    assert_near(got, want, roundings=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_heads_on_a_slice_leaves_the_rest_alone(
    operations: Operations, dtype: torch.dtype
) -> None:
    fused = torch.randn(6, 7, 20).to(dtype)
    weight = torch.randn(5, 20).to(dtype)
    want = fused.double()
    reference.norm_heads(want[:, :5], weight.double(), 1e-6)
    before = fused.clone()

    operations.norm_heads(fused[:, :5], weight, 1e-6)

    assert_near(fused[:, :5], want[:, :5])
    assert torch.equal(fused[:, 5:], before[:, 5:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), [(4, 64), (3, 20), (1, 2)])
def test_rope_on_a_slice_leaves_the_rest_alone(
    operations: Operations, dtype: torch.dtype, heads: int, head_dim: int
) -> None:
    table, positions = torch.randn(50, head_dim), torch.tensor([49, 0, 7, 7])
    fused = torch.randn(4, heads + 2, head_dim).to(dtype)
    want, before = fused.double(), fused.clone()
    reference.rope(want[:, :heads], reference.rope_angles(table, positions))

    operations.rope(fused[:, :heads], operations.rope_angles(table, positions))

    assert_near(fused[:, :heads], want[:, :heads])
    assert torch.equal(fused[:, heads:], before[:, heads:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_kv_writes_its_slots_and_no_other(operations: Operations, dtype: torch.dtype) -> None:
    fused = torch.randn(5, 6, 20).to(dtype)
    slots = torch.randperm(9)[:5]
    got = [torch.full((9, 2, 20), float("nan"), dtype=dtype) for _ in range(2)]
    want = [cache.clone() for cache in got]

    operations.store_kv(fused[:, 2:4], fused[:, 4:], slots, *got)
    reference.store_kv(fused[:, 2:4], fused[:, 4:], slots, *want)

    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("intermediate", [13, 64])
def test_silu_mul_and_embedding(
    operations: Operations, dtype: torch.dtype, intermediate: int
) -> None:
    gate_up, table = 4 * torch.randn(3, 2 * intermediate).to(dtype), torch.randn(11, 8).to(dtype)
    ids = torch.tensor([10, 0, 10])

    assert_near(
        operations.silu_mul(gate_up.clone()), reference.silu_mul(gate_up.double()), roundings=2
    )
    assert torch.equal(operations.embedding(ids, table), reference.embedding(ids, table))


TABLES = {
    "whole": lambda dtype: torch.randn(9, 20).to(dtype),
    "wide": lambda dtype: torch.randn(9, 50).to(dtype)[:, 7:27],
    "every second": lambda dtype: torch.randn(18, 20).to(dtype)[::2],
    "heads of a fused tensor": lambda dtype: torch.randn(9, 8, 5).to(dtype)[:, 2:6],
    "columns": lambda dtype: torch.randn(20, 9).to(dtype).T,
    "one row for all": lambda dtype: torch.randn(1, 20).to(dtype).expand(9, 20),
    "numbers": lambda dtype: torch.randn(9).to(dtype),
}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.uint8])
@pytest.mark.parametrize("lying", TABLES)
def test_take_rows_is_index_select(operations: Operations, lying: str, dtype: torch.dtype) -> None:
    table = TABLES[lying](dtype)
    for numbers in ([8, 0, 3, 3], [5], [], list(range(9)) * 300):
        rows = torch.tensor(numbers, dtype=torch.int64)

        got = operations.take_rows(table, rows)

        assert torch.equal(got, table.index_select(0, rows))
        assert got.is_contiguous()
    strided = torch.tensor([8, 0, 1, 0])[::2]
    assert torch.equal(operations.take_rows(table, strided), table[strided])


@pytest.mark.parametrize("number", [-1, 9, -(2**62), 2**62])
def test_rows_that_do_not_exist_are_refused(operations: Operations, number: int) -> None:
    for table in (torch.randn(9, 20), torch.randn(9, 50)[:, 7:27], torch.randn(9)):
        with pytest.raises(IndexError):
            operations.take_rows(table, torch.tensor([0, number]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_of_great_and_odd_numbers(operations: Operations, dtype: torch.dtype) -> None:
    gates = torch.tensor([[-3e4, -100.0, -90.0, -0.0, 0.0, 90.0, 3e4, torch.inf, torch.nan]])
    gate_up = torch.cat((gates, torch.ones_like(gates)), dim=1).to(dtype)
    want = reference.silu_mul(gate_up.double())

    got = operations.silu_mul(gate_up)

    torch.testing.assert_close(got.double(), want, rtol=4e-3, atol=1e-30, equal_nan=True)


def test_rows_are_the_same_on_several_threads(native_operations: Operations) -> None:
    x, residual = torch.randn(2, 300, 512).bfloat16()
    weight = torch.randn(512).bfloat16()
    alone = native_operations.rms_norm(x.clone(), weight, 1e-5, residual.clone())

    torch.set_num_threads(3)
    shared = native_operations.rms_norm(x, weight, 1e-5, residual)
    torch.set_num_threads(1)

    assert torch.equal(torch.stack(shared), torch.stack(alone))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_foreign_rows_are_computed_too(
    native_operations: Operations, dtype: torch.dtype
) -> None:
    gate_up, x = torch.randn(26, 3).to(dtype).T, torch.randn(20, 6).to(dtype).T
    heads, weight = torch.randn(6, 20, 5).transpose(1, 2), torch.randn(20)
    want_heads = heads.double()
    reference.norm_heads(want_heads, weight.double().expand(5, 20), 1e-6)

    got_heads = heads.clone()
    native_operations.norm_heads(got_heads, weight.expand(5, 20), 1e-6)

    assert_near(got_heads, want_heads)
    assert_near(
        native_operations.silu_mul(gate_up), reference.silu_mul(gate_up.double()), roundings=2
    )
    got, _ = native_operations.rms_norm(x, torch.ones(20, dtype=dtype), 1e-5)
    assert_near(got, reference.rms_norm(x.double(), torch.ones(20).double(), 1e-5)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [20, 64])
def test_store_kv_int8_rounds_as_the_oracle(
    native_operations: Operations, dtype: torch.dtype, head_dim: int
) -> None:
    fused = torch.randn(5, 6, head_dim).to(dtype)
    fused[1, 3], fused[2, 4] = 0, 1e-7
    # The scale of these rounds down by more than a quarter: half precision is coarse near zero.
    fused[4, 2:] = 1.05e-5
    slots = torch.randperm(9)[:5]
    got = [torch.full((9, 2, head_dim), 99, dtype=torch.int8) for _ in range(2)]
    got_scales = [torch.full((9, 2), torch.nan, dtype=torch.float16) for _ in range(2)]
    want, want_scales = ([t.clone() for t in ts] for ts in (got, got_scales))

    ours = NativeRows(native_operations.recorder)
    ours.store_kv_int8(fused[:, 2:4], fused[:, 4:], slots, *got, KvScales(*got_scales))
    store_kv_int8(fused[:, 2:4], fused[:, 4:], slots, *want, KvScales(*want_scales))

    torch.testing.assert_close(got_scales, want_scales, rtol=0, atol=0, equal_nan=True)
    for mine, theirs in zip(got, want, strict=True):
        # Products may be rounded once or twice before they are rounded to a whole number.
        assert (mine.int() - theirs.int()).abs().max() <= 1
        assert (mine != theirs).float().mean() < 0.01


def test_slots_outside_the_cache_are_refused(native_operations: Operations) -> None:
    rows = torch.randn(2, 1, 8)
    caches = torch.zeros(4, 1, 8), torch.zeros(4, 1, 8)

    for slot in (4, -1):
        with pytest.raises(IndexError, match="the cache has 4"):
            native_operations.store_kv(rows, rows, torch.tensor([0, slot]), *caches)
    assert caches[0].count_nonzero() == 0
