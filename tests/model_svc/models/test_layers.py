"""Layers of one model may differ: in heads, in windows, in the format of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import write_checkpoint
from support.decoding import Driver, random_prompts
from support.families import COHERE, GLM4, PHI3, checkpoint_of, write_random

from kernels.c.library import load_library
from kernels.formats import DENSE, Int8
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.family import Family
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights


def test_a_layer_may_have_more_key_value_heads_than_its_neighbour(tmp_path: Path) -> None:
    """Repeating every key/value head for its queries changes the cache, and no result."""
    shared = read_checkpoint(write_checkpoint(tmp_path / "shared"))
    tensors = load_file(shared.folder / "model.safetensors")
    for name in ("k_proj", "v_proj"):
        key = f"model.layers.1.self_attn.{name}.weight"
        heads = tensors[key].unflatten(0, (3, 10))
        tensors[key] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    (tmp_path / "repeated").mkdir()
    save_file(tensors, tmp_path / "repeated" / "model.safetensors")
    first, second = shared.spec.layers
    second = replace(second, attention=replace(second.attention, kv_heads=6))
    spec = replace(shared.spec, layers=(first, second))
    repeated = replace(shared, folder=tmp_path / "repeated", spec=spec)
    ops, prompts = operations_for("cpu", torch.float32), random_prompts(515, (21, 9))

    drivers = [Driver(each, ops, 2, torch.float32) for each in (shared, repeated)]
    want, got = (driver.prompts(prompts, sizes=(4, 9)) for driver in drivers)

    assert [k.shape[1:] for k in drivers[1].kv.k] == [(3, 10), (6, 10)]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_window_holds_in_its_layer_alone(tmp_path: Path) -> None:
    """A token moves results within its windows' reach: one layer's, or that of both together."""
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    layer = checkpoint.spec.layers[0]
    narrow = replace(layer, attention=replace(layer.attention, window=5))
    ops = operations_for("cpu", torch.float32)
    prompt = random_prompts(515, (30,))[0]
    other = [prompt[0] ^ 1, *prompt[1:]]

    def reach(*layers: object) -> int:
        spec = replace(checkpoint.spec, layers=layers)
        driver = Driver(replace(checkpoint, spec=spec), ops, 2, torch.float32)
        one, two = driver.prompts([prompt, other], sizes=(7, 7))
        return 1 + int((one != two).any(dim=1).nonzero().max())

    assert reach(narrow, narrow) == 9
    assert reach(narrow, layer) == reach(layer, narrow) == 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_may_be_quantised_beside_a_dense_one(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    first, second = checkpoint.spec.layers
    mixed = replace(
        checkpoint.spec, layers=(replace(first, weight_format=Int8()), second), head_format=Int8()
    )
    ops, quantising = operations_for("cpu", dtype), operations_for("cpu", dtype, Int8())
    dense, quantised = (load_weights(checkpoint, each, dtype) for each in (ops, quantising))
    x = torch.randn(3, 60).to(dtype)

    got = load_weights(replace(checkpoint, spec=mixed), ops, dtype)

    assert torch.equal(got.layers[0].qkv(x), quantised.layers[0].qkv(x))
    assert torch.equal(got.layers[1].qkv(x), dense.layers[1].qkv(x))
    assert torch.equal(got.output_head(x), quantised.output_head(x))
    assert not torch.equal(dense.layers[0].qkv(x), quantised.layers[0].qkv(x))


def test_a_layer_may_stay_dense_where_others_are_quantised(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    first, second = checkpoint.spec.layers
    mixed = replace(checkpoint.spec, layers=(first, replace(second, weight_format=DENSE)))
    quantising, x = operations_for("cpu", torch.float32, Int8()), torch.randn(3, 60)

    got = load_weights(replace(checkpoint, spec=mixed), quantising, torch.float32)

    dense = load_weights(checkpoint, operations_for("cpu", torch.float32), torch.float32)
    assert torch.equal(got.layers[1].output(x), dense.layers[1].output(x))
    assert not torch.equal(got.layers[0].output(x), dense.layers[0].output(x))


@pytest.mark.parametrize(
    ("model_type", "family", "recorded"),
    [("glm4", GLM4, True), ("phi3", PHI3, True), ("cohere", COHERE, False)],
)
def test_forms_of_recorded_operations_are_captured_whole(
    model_type: str, family: Family, recorded: bool, tmp_path: Path
) -> None:
    if load_library().library is None:
        pytest.skip(load_library().why_not)
    entries = {"head_dim": 8} if model_type == "glm4" else {}
    checkpoint = checkpoint_of(write_random(tmp_path, model_type, **entries), family)
    ops, dtype = operations_for("cpu", torch.bfloat16), torch.bfloat16
    decoder = Decoder(checkpoint.spec, load_weights(checkpoint, ops, dtype), ops, dtype)
    computed, replayed = (KvCache(checkpoint.spec, 64, dtype) for _ in range(2))
    zero, table = np.zeros(1, np.int64), np.arange(64, dtype=np.int32)[None]
    batch = Batch.build(np.arange(3, 40), zero, zero, np.array([37]), table)
    finals = batch.finals([0])

    captured = decoder.capture(batch, replayed, finals)

    assert (captured is not None) == recorded
    if captured is not None:
        want = decoder.logits(decoder.forward(batch, computed, finals))
        assert torch.equal(captured.replay().float(), want)
