"""What is told of a model as it is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from prometheus_client import CollectorRegistry

from kernels.cpu.native.library import LEVELS, Choice, chosen
from model_svc import loading
from model_svc.settings import ModelSettings

WHY = "the native operations were not built: install a C compiler"


def lines_of_loading(checkpoint: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    settings = ModelSettings(
        listen="unix:unused", checkpoint=str(checkpoint), dtype=dtype, kv_tokens=64
    )
    with caplog.at_level(logging.WARNING, logger=loading.__name__):
        loading.load(settings, CollectorRegistry(), lambda call: None)
    return [record.__dict__["reason"] for record in caplog.records]


def test_one_line_says_that_the_compiled_operations_are_missing_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "chosen", lambda: Choice(None, WHY))
    assert lines_of_loading(write_checkpoint(tmp_path / "c"), "bfloat16", caplog) == [WHY]


def test_nothing_is_said_where_they_would_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "chosen", lambda: Choice(None, WHY))
    assert lines_of_loading(write_checkpoint(tmp_path / "c"), "float32", caplog) == []


def test_auto_is_bfloat16_where_the_compiled_operations_serve() -> None:
    library = chosen().library
    if library is None or library.level == LEVELS[0]:
        pytest.skip(chosen().why_not or f"level {LEVELS[0]} is not fast in bfloat16")
    assert loading.choose_dtype("auto", "bfloat16", "cpu") == torch.bfloat16
    assert loading.choose_dtype("auto", "float16", "cpu") == torch.bfloat16
    assert loading.choose_dtype("auto", "float32", "cpu") == torch.float32


def test_auto_is_float32_where_nothing_multiplies_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "chosen", lambda: Choice(None, WHY))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert loading.choose_dtype("auto", "bfloat16", "cpu") == torch.float32
    assert loading.choose_dtype("auto", "bfloat16", "cuda") == torch.bfloat16
    assert loading.choose_dtype("bfloat16", "float32", "cpu") == torch.bfloat16
