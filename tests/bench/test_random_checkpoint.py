"""Random checkpoints: their shapes, and that a model loads what was written."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from bench.peers.workloads import DENSE, MOE
from bench.random_checkpoint import DecoderShape, write_checkpoint
from bench.tiny_checkpoint import TINY

SMALL = DecoderShape(
    layers=2, hidden=32, heads=2, kv_heads=1, head_dim=16, intermediate=48, vocabulary=64
)
SMALL_MOE = replace(SMALL, experts=4, experts_per_token=2, tied=False)


@pytest.mark.parametrize(
    ("shape", "millions"), [(TINY, 5.8), (DENSE.shape, 465.7), (MOE.shape, 625.6)]
)
def test_the_shapes_have_as_many_parameters_as_their_names_say(shape, millions):
    assert shape.parameters / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("shape", [SMALL, SMALL_MOE])
def test_transformers_loads_every_weight_that_was_written_and_misses_none(shape, tmp_path):
    write_checkpoint(tmp_path, shape)

    model, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, output_loading_info=True
    )

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert sum(one.numel() for one in model.parameters()) == shape.parameters


def test_a_shape_gives_the_same_bytes_again(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        write_checkpoint(folder, SMALL)

    one, two = ((folder / "model.safetensors").read_bytes() for folder in folders)

    assert one == two


def test_weights_are_bfloat16_noise_and_norms_are_one(tmp_path):
    write_checkpoint(tmp_path, SMALL)

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        embedding = file.get_tensor("model.embed_tokens.weight")
        norm = file.get_tensor("model.norm.weight")

    assert embedding.dtype == torch.bfloat16
    assert embedding.float().std() == pytest.approx(0.02, rel=0.1)
    assert (norm == 1).all()


def test_a_lone_token_reads_the_layers_and_the_output_projection_once():
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32  # attention, MLP, norms

    assert SMALL.layer_parameters_per_token == 2 * layer
    assert SMALL.decode_parameters == 2 * layer + 64 * 32 + 32


def test_a_lone_token_reads_only_the_experts_it_goes_through():
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 4 * 32 + 2 * 3 * 32 * 48 + 2 * 32

    assert SMALL_MOE.layer_parameters_per_token == 2 * layer


def test_the_config_names_the_family_by_whether_there_are_experts(tmp_path):
    write_checkpoint(tmp_path, SMALL_MOE)

    config = json.loads((tmp_path / "config.json").read_text())

    assert config["architectures"] == ["MixtralForCausalLM"]
    assert SMALL.config()["architectures"] == ["LlamaForCausalLM"]
    assert "num_local_experts" not in SMALL.config()
