"""What is mended in the interpreter: each of these is wrong, or raises, as Triton ships it."""

# ruff: noqa: N803 (constants of a kernel are spelled so)

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@triton.jit
def _dot_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    rows, columns = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    a, b = tl.load(a_ptr + rows * SIZE + columns), tl.load(b_ptr + rows * SIZE + columns)
    tl.store(out_ptr + rows * SIZE + columns, tl.dot(a, b, out_dtype=out_ptr.dtype.element_ty))


@triton.jit
def _cast_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at).to(out_ptr.dtype.element_ty))


@triton.jit
def _arithmetic_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    tl.store(out_ptr + at, a + b)
    tl.store(out_ptr + SIZE + at, a - b)
    tl.store(out_ptr + 2 * SIZE + at, a * b)
    tl.store(out_ptr + 3 * SIZE + at, tl.maximum(a, b))
    tl.store(out_ptr + 4 * SIZE + at, tl.where(a < b, a, b))
    tl.store(out_ptr + 5 * SIZE + at, -a)
    tl.store(out_ptr + 6 * SIZE + at, tl.fma(a, b, a))


@triton.jit
def _reduce_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, SIZE))
    tl.store(out_ptr, tl.sum(x, axis=0))
    tl.store(out_ptr + 1, tl.max(x, axis=0))
    tl.store(out_ptr + 2, tl.min(x, axis=0))


@triton.jit
def _loop_kernel(x_ptr, out_ptr, length, BLOCK: tl.constexpr):
    total = 0.0
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(x_ptr + at, mask=at < length, other=0.0), axis=0)
    tl.store(out_ptr, total)


@triton.jit
def _overflow_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    infinite = tl.exp(tl.load(x_ptr + at) + 1000.0)
    tl.store(out_ptr + at, tl.where(at > 0, infinite, infinite - infinite))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *FLOAT8])
def test_products_of_narrow_floats_are_those_of_their_values(
    device: str, dtype: torch.dtype
) -> None:
    a, b = (torch.randn(2, 32, 32) / 4).to(dtype).to(device)
    out = torch.empty(32, 32, device=device)

    _dot_kernel[(1,)](a, b, out, SIZE=32)

    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-4, atol=1e-5)


def test_products_of_integers_are_exact(device: str) -> None:
    a, b = torch.randint(-128, 128, (2, 32, 32), dtype=torch.int8).to(device)
    out = torch.empty(32, 32, dtype=torch.int32, device=device)

    _dot_kernel[(1,)](a, b, out, SIZE=32)

    assert torch.equal(out.cpu(), a.cpu().int() @ b.cpu().int())


@pytest.mark.parametrize("dtype", [torch.bfloat16, *FLOAT8])
def test_casts_round_as_torch_does(device: str, dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    x = (torch.randn(4096, device=device) * 30).clamp(-most, most)
    out = torch.empty(4096, dtype=dtype, device=device)

    _cast_kernel[(1,)](x, out, SIZE=4096)

    assert torch.equal(out.float(), x.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("source", [torch.bfloat16, *FLOAT8])
def test_every_value_of_a_narrow_float_widens_exactly(
    device: str, source: torch.dtype, dtype: torch.dtype
) -> None:
    size = 2 ** (8 * source.itemsize)
    bits = torch.arange(size, dtype=torch.int32).to(torch.int16 if size > 256 else torch.uint8)
    x = bits.view(source).to(device)
    out = torch.empty(size, dtype=dtype, device=device)

    _cast_kernel[(1,)](x, out, SIZE=size)

    torch.testing.assert_close(out, x.float().to(dtype), rtol=0, atol=0, equal_nan=True)


def test_integers_become_bfloat16_by_value_and_back(device: str) -> None:
    x = torch.arange(-128, 128, dtype=torch.int8, device=device)
    wide = torch.empty(256, dtype=torch.bfloat16, device=device)
    back = torch.empty_like(x)

    _cast_kernel[(1,)](x, wide, SIZE=256)
    _cast_kernel[(1,)](wide, back, SIZE=256)

    assert torch.equal(wide.float(), x.float())
    assert torch.equal(back, x)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_what_float8_cannot_hold_saturates(device: str, dtype: torch.dtype) -> None:
    x = torch.tensor([1e6, -1e6, float("inf"), 0.0], device=device)
    out = torch.empty(4, dtype=dtype, device=device)

    _cast_kernel[(1,)](x, out, SIZE=4)

    most = torch.finfo(dtype).max
    assert out.float().tolist() == [most, -most, most, 0.0]


def test_bfloat16_arithmetic_is_done_on_values_and_rounded_once(device: str) -> None:
    a, b = torch.randn(2, 64).bfloat16().to(device)
    out = torch.empty(7, 64, dtype=torch.bfloat16, device=device)

    _arithmetic_kernel[(1,)](a, b, out, SIZE=64)

    wide_a, wide_b = a.double(), b.double()
    want = [a + b, a - b, a * b, a.maximum(b), a.minimum(b), -a]
    fused = (wide_a * wide_b + wide_a).bfloat16()
    assert torch.equal(out, torch.stack([*want, fused]))


def test_bfloat16_sums_and_extremes_are_those_of_the_values(device: str) -> None:
    x = torch.randn(64).bfloat16().to(device)
    out = torch.empty(3, device=device)

    _reduce_kernel[(1,)](x, out, SIZE=64)

    torch.testing.assert_close(out[0], x.float().sum(), rtol=1e-2, atol=1e-2)
    assert out[1:].tolist() == [x.max().item(), x.min().item()]


def test_a_loop_may_run_as_far_as_an_argument_says(device: str) -> None:
    x, out = torch.randn(50, device=device), torch.empty(1, device=device)

    _loop_kernel[(1,)](x, out, 50, BLOCK=16)

    torch.testing.assert_close(out[0], x.sum())


def test_lanes_may_overflow_without_a_warning(device: str) -> None:
    x, out = torch.zeros(4, device=device), torch.empty(4, device=device)

    _overflow_kernel[(1,)](x, out, SIZE=4)

    assert out.isnan().tolist() == [True, False, False, False]


def test_memory_that_nothing_has_written_is_poisoned(device: str) -> None:
    assert torch.empty(1000, device=device).isnan().all()
    assert torch.empty_like(torch.zeros(1000, device=device)).isnan().all()
