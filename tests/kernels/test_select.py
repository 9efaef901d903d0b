"""Operations are selected by device, dtype and formats, or refused with a remedy."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from kernels import select
from kernels.bound import bind
from kernels.c.library import Choice, load_library
from kernels.c.rows import NativeRows
from kernels.cpu import exact, rows
from kernels.cpu.entries import add_entries
from kernels.devices import UnsupportedDevice
from kernels.formats import Dense, Fp8Block, Int4Group, Int8, KvInt8, WeightFormat
from kernels.select import operations_for
from kernels.table import Table


def test_float32_is_exact_on_a_cpu_and_other_dtypes_are_compiled() -> None:
    if load_library().library is None:
        pytest.skip(load_library().why_not)
    exact_ops: Any = operations_for("cpu", torch.float32)
    half: Any = operations_for("cpu", torch.bfloat16)

    assert exact_ops.rms_norm is exact.rms_norm
    assert isinstance(half.rms_norm.__self__, NativeRows)


def test_pytorch_serves_where_no_library_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "load_library", lambda: Choice(None, "no compiler"))

    ops: Any = operations_for("cpu", torch.bfloat16)

    assert ops.rms_norm is rows.rms_norm
    assert ops.capture(lambda: torch.empty(0)) is None


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
    ("device", "dtype"), [("cpu", torch.int8), ("cuda", torch.int8), ("cpu", torch.float64)]
)
def test_dtype_that_is_not_computed_in_is_refused(device: str, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedDevice, match=r"int8|float64"):
        operations_for(device, dtype)


@pytest.mark.parametrize("weights", [Int8(), Int4Group(), Fp8Block()])
def test_quantised_weights_are_refused_where_they_have_no_products(weights: WeightFormat) -> None:
    with pytest.raises(UnsupportedDevice, match=rf"{type(weights).__name__}.*--device cpu"):
        bind(triton_table(), weights)


def test_a_layer_of_a_format_without_a_product_is_refused() -> None:
    ops = operations_for("cpu", torch.float32)

    with pytest.raises(UnsupportedDevice, match="'cpu' has no products of Fp8Block weights"):
        ops.pack_linear(torch.zeros(2, 2), None, Fp8Block())


def test_a_float32_model_has_no_int8_caches() -> None:
    with pytest.raises(UnsupportedDevice, match="--dtype bfloat16"):
        operations_for("cpu", torch.float32, caches=KvInt8())


def test_int8_caches_without_a_library_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "load_library", lambda: Choice(None, "no compiler"))
    with pytest.raises(UnsupportedDevice, match="no compiler"):
        operations_for("cpu", torch.bfloat16, caches=KvInt8())


def triton_table() -> Table:
    """A table with dense products alone, as a GPU's."""
    table = Table("cuda")
    add_entries(table, torch.float32)
    table.entries[:] = [entry for entry in table.entries if entry.format in (None, Dense)]
    return table
