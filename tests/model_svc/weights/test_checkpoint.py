"""A checkpoint folder is read, or refused in one line that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import EOS_ID, write_checkpoint

from model_svc.weights.checkpoint import (
    CheckpointError,
    open_checkpoint,
    read_checkpoint,
)


def edit(path: Path, **entries: Any) -> None:
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps(config))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_name_sizes_and_ends(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", dtype="bfloat16", eos_token_id=[7, EOS_ID])
    edit(folder / "generation_config.json", eos_token_id=[300, 7])

    checkpoint = open_checkpoint(str(folder))

    assert checkpoint.name == "tiny"
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.eos_token_ids == (7, EOS_ID, 300)
    assert checkpoint.context_length == 512
    assert checkpoint.dtype == "bfloat16"


def test_generation_config_and_the_tokenizers_files_are_optional(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=None)
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink()

    checkpoint = read_checkpoint(folder)

    assert checkpoint.eos_token_ids == ()
    assert checkpoint.sampling_defaults == {}


def test_the_tokenizers_own_ending_counts_too(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, eos_token_id=7)

    assert read_checkpoint(folder).eos_token_ids == (7, EOS_ID)


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("mixtral", {}),
    ],
)
def test_parameters_are_those_in_the_file(
    tmp_path: Path, family: str, overrides: dict[str, Any]
) -> None:
    folder = write_checkpoint(tmp_path, family, dtype="float32", **overrides)
    file = (folder / "model.safetensors").read_bytes()
    header = int.from_bytes(file[:8], "little")

    assert read_checkpoint(folder).parameters == (len(file) - 8 - header) // 4


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")


def test_hub_id_is_fetched_and_named_for_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "snapshots" / "0123abc")
    asked = []

    def snapshot_download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append(hub_id)
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    checkpoint = open_checkpoint("some-owner/some-model")

    assert asked == ["some-owner/some-model"]
    assert (checkpoint.folder, checkpoint.name) == (folder, "some-model")


def test_missing_config_is_named(tmp_path: Path) -> None:
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 100_000])
def test_file_that_is_no_json_object_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))

    assert name in refusal(folder)


@pytest.mark.parametrize("architectures", [["MambaForCausalLM"], [], None, "LlamaForCausalLM"])
def test_unknown_architecture_lists_those_that_are_known(
    tmp_path: Path, architectures: object
) -> None:
    folder = write_checkpoint(tmp_path)
    edit(folder / "config.json", architectures=architectures)

    message = refusal(folder)

    assert "architectures" in message
    if not isinstance(architectures, str):
        assert "Qwen2ForCausalLM" in message


@pytest.mark.parametrize("value", ["</s>", [1, None], True, -1])
def test_eos_that_is_no_token_id_is_refused(tmp_path: Path, value: object) -> None:
    folder = write_checkpoint(tmp_path)
    edit(folder / "generation_config.json", eos_token_id=value)

    assert "eos_token_id" in refusal(folder)
