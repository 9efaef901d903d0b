"""Weights are read, cast and fused; a damaged checkpoint is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import write_checkpoint

from kernels.reference.operations import reference
from model_svc.models.weights import DecoderWeights, MoeWeights
from model_svc.weights.checkpoint import CheckpointError, read_checkpoint
from model_svc.weights.loader import load_weights

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(folder: Path, dtype: torch.dtype = torch.float32) -> DecoderWeights:
    return load_weights(read_checkpoint(folder), reference, dtype)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(folder: Path, **changed: torch.Tensor | None) -> None:
    """Replace tensors by name (`.` written as `__`); None removes one."""
    tensors = load_file(folder / SINGLE)
    for key, tensor in changed.items():
        name = key.replace("__", ".")
        tensors.pop(name)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / SINGLE)


def shard(folder: Path) -> list[str]:
    """Split the single file into three, with an index."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    files = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    weight_map = {name: files[place % 3] for place, name in enumerate(tensors)}
    for file in files:
        own = {name: tensors[name] for name, place in weight_map.items() if place == file}
        save_file(own, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def test_projections_of_one_input_are_fused_in_order(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    tensors = load_file(folder / SINGLE)
    x = torch.randn(2, 60)

    layer = load(folder).layers[1]

    parts = [f"model.layers.1.self_attn.{name}_proj" for name in "qkv"]
    want = [x @ tensors[f"{part}.weight"].T + tensors[f"{part}.bias"] for part in parts]
    torch.testing.assert_close(layer.qkv(x), torch.cat(want, dim=1))


def test_head_norms_are_repeated_for_each_head(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen3")
    tensors = load_file(folder / SINGLE)

    norm = load(folder).layers[0].qk_norm

    assert norm is not None
    q, k = (tensors[f"model.layers.0.self_attn.{name}_norm.weight"] for name in "qk")
    assert torch.equal(norm, torch.stack([q] * 6 + [k] * 3))


def test_experts_are_stacked_gate_before_up(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mixtral")
    tensors = load_file(folder / SINGLE)

    mlp = load(folder).layers[0].mlp

    assert isinstance(mlp, MoeWeights)
    prefix = "model.layers.0.block_sparse_moe.experts.4"
    gate_up = torch.cat((tensors[f"{prefix}.w1.weight"], tensors[f"{prefix}.w3.weight"]))
    assert torch.equal(mlp.experts.gate_up[4], gate_up)
    assert torch.equal(mlp.experts.down[4], tensors[f"{prefix}.w2.weight"])
    router = tensors["model.layers.0.block_sparse_moe.gate.weight"]
    assert torch.equal(mlp.experts.router, router)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_weights_are_cast_to_the_dtype_asked_for(tmp_path: Path, stored: str) -> None:
    folder = write_checkpoint(tmp_path, dtype=stored)
    embedding = load_file(folder / SINGLE)["model.embed_tokens.weight"]

    loaded = load(folder, torch.bfloat16).embedding

    assert torch.equal(loaded, embedding.to(torch.bfloat16))


def test_shards_hold_what_a_single_file_does(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    x = torch.randn(3, 60)
    before = load(folder)
    shard(folder)

    after = load(folder)

    assert torch.equal(after.embedding, before.embedding)
    assert torch.equal(after.layers[1].qkv(x), before.layers[1].qkv(x))
    assert torch.equal(after.output_head(x), before.output_head(x))


def test_progress_rises_to_the_bytes_of_all_tensors(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mixtral", dtype="bfloat16")
    checkpoint = read_checkpoint(folder)
    seen: list[tuple[int, int]] = []

    load_weights(
        checkpoint, reference, torch.float32, lambda done, total: seen.append((done, total))
    )

    done = [bytes_done for bytes_done, _ in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (2 * checkpoint.parameters, 2 * checkpoint.parameters)


def test_loaded_weights_outlive_the_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    weights = load(folder)
    before = weights.embedding.clone()

    (folder / SINGLE).write_bytes(b"")

    assert torch.equal(weights.embedding, before)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    file = write_checkpoint(tmp_path) / SINGLE
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])

    assert str(file) in refusal(tmp_path)
    assert "truncated" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{not json at all" + b"\0" * 64]
)
def test_nonsense_in_place_of_a_header_is_named(tmp_path: Path, content: bytes) -> None:
    file = write_checkpoint(tmp_path) / SINGLE
    file.write_bytes(content)

    assert str(file) in refusal(tmp_path)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, model__layers__1__mlp__up_proj__weight=None)

    assert "model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_wrong_shape_names_tensor_and_both_shapes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, model__norm__weight=torch.ones(61))

    message = refusal(folder)

    assert "model.norm.weight has shape [61], config.json implies [60]" in message


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.bool, "BOOL")]
)
def test_wrong_dtype_names_tensor_and_type(tmp_path: Path, dtype: torch.dtype, kind: str) -> None:
    folder = write_checkpoint(tmp_path)
    rewrite(folder, model__norm__weight=torch.ones(60).to(dtype))

    message = refusal(folder)

    assert f"model.norm.weight is of type {kind}" in message


def test_missing_shard_is_named(tmp_path: Path) -> None:
    files = shard(write_checkpoint(tmp_path))
    (tmp_path / files[1]).unlink()

    assert files[1] in refusal(tmp_path)


def test_shard_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "inner")
    files = shard(folder)
    (folder / files[0]).rename(tmp_path / files[0])
    text = (folder / INDEX).read_text().replace(files[0], f"../{files[0]}")
    (folder / INDEX).write_text(text)

    assert f"../{files[0]}" in refusal(folder)


def test_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    files = shard(write_checkpoint(tmp_path))
    tensors = load_file(tmp_path / files[2])
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, tmp_path / files[2])

    assert name in refusal(tmp_path)
    assert files[2] in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_malformed_index_is_named(tmp_path: Path, text: str) -> None:
    shard(write_checkpoint(tmp_path))
    (tmp_path / INDEX).write_text(text)

    assert INDEX in refusal(tmp_path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / SINGLE).rename(folder / "pytorch_model.bin")

    assert "pickles" in refusal(folder)
    assert "convert" in refusal(folder)


def test_no_weights_at_all_is_said(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path) / SINGLE).unlink()

    assert f"neither {SINGLE} nor {INDEX}" in refusal(tmp_path)
