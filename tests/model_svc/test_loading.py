"""What is told of a model as it is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from prometheus_client import CollectorRegistry

from kernels.cpu.native.library import Choice
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
