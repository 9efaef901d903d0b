"""Packed linear layers multiply like plain ones, whatever their shape."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kernels.cpu.linear import EXACT_ROWS, pack_linear

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rows", [0, 1, 7, EXACT_ROWS, EXACT_ROWS + 1, 97])
@pytest.mark.parametrize(("outputs", "inputs"), [(515, 60), (3, 7), (128, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_plain_layer(
    dtype: torch.dtype, rows: int, outputs: int, inputs: int, bias: bool
) -> None:
    weight = torch.randn(outputs, inputs).to(dtype)
    offset = torch.randn(outputs).to(dtype) if bias else None
    x = torch.randn(rows, inputs).to(dtype)
    want = functional.linear(x.double(), weight.double(), offset.double() if bias else None)

    got = pack_linear(weight, offset)(x)

    assert got.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=10 * tolerance)


def test_reads_rows_of_a_wider_tensor() -> None:
    weight, wide = torch.randn(9, 6), torch.randn(70, 20)

    got = pack_linear(weight, None)(wide[:, 3:9])

    torch.testing.assert_close(got, wide[:, 3:9] @ weight.T)
