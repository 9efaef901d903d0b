"""The likeliest tokens in C, against NumPy's: every dtype, odd widths, numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.c.argmax import NativeArgmax
from kernels.c.library import Library
from kernels.cpu.sampling import argmax

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def native(native_library: Library) -> NativeArgmax:
    return NativeArgmax(native_library)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 3, 16, 17, 63, 4096, 4099])
def test_the_largest_is_found_wherever_it_lies(native, dtype, vocab):
    logits = torch.randn(40, vocab).to(dtype)

    assert native(logits).tolist() == argmax(logits.float().numpy()).tolist()


@pytest.mark.parametrize("vocab", [5, 40, 100])
def test_the_first_of_equals_is_taken(native, vocab):
    logits = torch.zeros(vocab, vocab)
    for row in range(vocab):
        logits[row, row:] = 1

    assert native(logits).tolist() == list(range(vocab))


@pytest.mark.parametrize("vocab", [4, 35])
def test_what_is_not_a_number_is_less_than_any(native, vocab):
    rows = [[NAN, -INF, 1, NAN], [NAN] * 4, [-INF] * 4, [NAN, -INF, -INF, -INF], [1, NAN, INF, INF]]
    logits = torch.full((5, vocab), -INF)
    logits[:, -4:] = torch.tensor(rows)

    assert native(logits).tolist() == argmax(logits.numpy()).tolist()


def test_rows_of_other_dtypes_and_strides_are_served_too(native):
    logits = torch.randn(6, 50, dtype=torch.float64)

    expected = logits.argmax(1).tolist()
    assert native(logits).tolist() == expected
    assert native(logits.float().T.contiguous().T).tolist() == expected
    assert native(torch.empty(0, 50)).tolist() == []


def test_threads_change_nothing(native):
    logits = torch.randn(64, 5000).bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert np.array_equal(native(logits), argmax(logits.float().numpy()))
    finally:
        torch.set_num_threads(before)
