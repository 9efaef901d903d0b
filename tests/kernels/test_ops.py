"""A set of operations is chosen by device and dtype, or refused with a remedy."""

from __future__ import annotations

import pytest
import torch

from kernels import cpu, reference
from kernels.cpu import exact
from kernels.ops import UnsupportedDevice, operations_for


def test_each_device_has_its_set() -> None:
    assert operations_for("cpu", torch.bfloat16) is cpu
    assert operations_for("cpu", torch.float32) is exact
    assert operations_for("reference", torch.float64) is reference


@pytest.mark.parametrize("device", ["cuda", "interpret"])
def test_device_without_kernels_is_refused_with_the_remedy(device: str) -> None:
    with pytest.raises(UnsupportedDevice, match=f"{device}.*--device cpu"):
        operations_for(device, torch.float32)


def test_unknown_device_is_named() -> None:
    with pytest.raises(UnsupportedDevice, match="'abacus'"):
        operations_for("abacus", torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.int8), ("reference", torch.int8), ("cpu", torch.float64)]
)
def test_dtype_that_is_not_computed_in_is_refused(device: str, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedDevice, match=r"int8|float64"):
        operations_for(device, dtype)
