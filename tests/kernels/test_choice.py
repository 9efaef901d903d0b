"""A set of operations is chosen by device and dtype, or refused with a remedy."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from kernels import reference
from kernels.choice import operations_for
from kernels.cpu import exact
from kernels.devices import UnsupportedDevice


def test_each_device_has_its_set() -> None:
    assert operations_for("cpu", torch.bfloat16) is not exact
    assert operations_for("cpu", torch.float32) is exact
    assert operations_for("reference", torch.float64) is reference


def test_cuda_without_a_gpu_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedDevice, match=r"no GPU for device 'cuda'.*--device cpu"):
        operations_for("cuda", torch.float32)


@pytest.mark.parametrize("device", ["cuda", "interpret"])
def test_without_triton_its_devices_are_refused_with_the_remedy(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedDevice, match=rf"{device}.*pip install 'triptych\[kernels\]'"):
        operations_for(device, torch.float32)


def test_cuda_in_a_process_that_interprets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UnsupportedDevice, match="unset it"):
        operations_for("cuda", torch.float32)


def test_unknown_device_is_named() -> None:
    with pytest.raises(UnsupportedDevice, match="'abacus'"):
        operations_for("abacus", torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.int8), ("reference", torch.int8), ("cpu", torch.float64)]
)
def test_dtype_that_is_not_computed_in_is_refused(device: str, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedDevice, match=r"int8|float64"):
        operations_for(device, dtype)


@pytest.mark.parametrize("device", ["reference", "cuda", "interpret"])
def test_quantised_weights_are_refused_where_there_are_none(device: str) -> None:
    with pytest.raises(UnsupportedDevice, match=rf"{device}.*--device cpu"):
        operations_for(device, torch.float32, "int8")


def test_an_unknown_quantisation_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnsupportedDevice, match="'int3': use none, int8, int4, w8a8"):
        operations_for("cpu", torch.float32, "int3")


@pytest.mark.parametrize("device", ["reference", "cuda", "interpret"])
def test_int8_caches_are_refused_where_there_are_none(device: str) -> None:
    with pytest.raises(UnsupportedDevice, match=rf"{device}.*--device cpu"):
        operations_for(device, torch.bfloat16, kv_dtype="int8")
