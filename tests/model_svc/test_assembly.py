"""What is told of a model as it is loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from support.checkpoints import write_checkpoint

from kernels.c.levels import LEVELS
from kernels.c.library import Choice, load_library
from model_svc import assembly
from model_svc.settings import ModelSettings
from protos import generation_pb2

# What generation_config.json holds, and what the model tells of it.
DEFAULTS = [
    ({}, None),
    ({"eos_token_id": 3, "top_k": -1}, None),
    ({"do_sample": False, "top_k": 20}, {"temperature": 0.0, "top_k": 20}),
    (
        {"temperature": 0.5, "repetition_penalty": 1.25, "max_new_tokens": 4},
        {"temperature": 0.5, "repetition_penalty": 1.25},
    ),
]
WHY = "the native operations were not built: install a C compiler"


def load(checkpoint: Path, dtype: str = "float32") -> assembly.LoadedModel:
    settings = ModelSettings(
        listen="unix:unused", checkpoint=str(checkpoint), dtype=dtype, kv_tokens=64
    )
    return assembly.load(settings, CollectorRegistry(), lambda call: None)


def lines_of_loading(checkpoint: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, logger=assembly.__name__):
        load(checkpoint, dtype)
    return [record.__dict__["reason"] for record in caplog.records]


def test_one_line_says_that_the_compiled_operations_are_missing_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(assembly, "load_library", lambda: Choice(None, WHY))
    assert lines_of_loading(write_checkpoint(tmp_path / "c"), "bfloat16", caplog) == [WHY]


def test_nothing_is_said_where_they_would_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(assembly, "load_library", lambda: Choice(None, WHY))
    assert lines_of_loading(write_checkpoint(tmp_path / "c"), "float32", caplog) == []


@pytest.mark.parametrize(("generation", "told"), DEFAULTS)
def test_the_checkpoints_sampling_parameters_are_told(
    tmp_path: Path, generation: dict[str, Any], told: dict[str, float] | None
) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "generation_config.json").write_text(json.dumps(generation))
    model = load(folder).welcome.model
    assert model.HasField("generation_defaults") is (told is not None)
    assert model.generation_defaults == generation_pb2.SamplingParams(**(told or {}))


def test_auto_is_bfloat16_where_the_compiled_operations_serve() -> None:
    library = load_library().library
    if library is None or library.level == LEVELS[0]:
        pytest.skip(load_library().why_not or f"level {LEVELS[0]} is not fast in bfloat16")
    assert assembly.choose_dtype("auto", "bfloat16", "cpu") == torch.bfloat16
    assert assembly.choose_dtype("auto", "float16", "cpu") == torch.bfloat16
    assert assembly.choose_dtype("auto", "float32", "cpu") == torch.float32


def test_auto_is_float32_where_nothing_multiplies_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assembly, "load_library", lambda: Choice(None, WHY))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert assembly.choose_dtype("auto", "bfloat16", "cpu") == torch.float32
    assert assembly.choose_dtype("auto", "bfloat16", "cuda") == torch.bfloat16
    assert assembly.choose_dtype("bfloat16", "float32", "cpu") == torch.bfloat16
