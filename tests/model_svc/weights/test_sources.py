"""Fused, transposed, stacked and interleaved tensors become the weights they were made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import write_checkpoint

from kernels.reference.operations import reference
from model_svc.models.spec import DecoderSpec
from model_svc.models.weight_names import FusedQkv, GateUp, WeightNames
from model_svc.models.weights import DecoderWeights, DenseWeights, MoeWeights
from model_svc.weights.checkpoint import Checkpoint, read_checkpoint
from model_svc.weights.loader import load_weights
from model_svc.weights.source_map import decoder_sources
from model_svc.weights.sources import RotaryPairs, RowRuns, WeightSource

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.{layer}."
FUSED = LAYER + "self_attn.fused"
HEADS, KV_HEADS, HEAD_DIM = 6, 3, 10


def pop(tensors: Tensors, prefix: str, names: str, suffix: str) -> list[torch.Tensor]:
    return [tensors.pop(f"{prefix}{name}_proj.{suffix}") for name in names.split()]


def by_layer(change: Callable[[Tensors, str], None]) -> Callable[[Tensors], None]:
    def changed(tensors: Tensors) -> None:
        for number in range(2):
            change(tensors, f"model.layers.{number}.")

    return changed


@by_layer
def concatenate(tensors: Tensors, layer: str) -> None:
    for kind in ("weight", "bias"):
        parts = pop(tensors, layer + "self_attn.", "q k v", kind)
        tensors[f"{layer}self_attn.fused.{kind}"] = torch.cat(parts)


@by_layer
def group(tensors: Tensors, layer: str) -> None:
    """One block for each key/value head: its queries, its key, its value."""
    for kind in ("weight", "bias"):
        parts = pop(tensors, layer + "self_attn.", "q k v", kind)
        blocks = [part.unflatten(0, (KV_HEADS, -1)) for part in parts]
        tensors[f"{layer}self_attn.fused.{kind}"] = torch.cat(blocks, dim=1).flatten(0, 1)


@by_layer
def reorder(tensors: Tensors, layer: str) -> None:
    """Three blocks of queries, values and keys."""
    for kind in ("weight", "bias"):
        q, k, v = pop(tensors, layer + "self_attn.", "q k v", kind)
        blocks = [part.unflatten(0, (3, -1)) for part in (q, v, k)]
        tensors[f"{layer}self_attn.fused.{kind}"] = torch.cat(blocks, dim=1).flatten(0, 1)


@by_layer
def transpose(tensors: Tensors, layer: str) -> None:
    concatenated = pop(tensors, layer + "self_attn.", "q k v", "weight")
    tensors[f"{layer}self_attn.fused.weight"] = torch.cat(concatenated)
    biases = pop(tensors, layer + "self_attn.", "q k v", "bias")
    tensors[f"{layer}self_attn.fused.bias"] = torch.cat(biases)
    for name, tensor in tensors.items():
        if name.startswith(layer) and name.endswith("weight") and tensor.dim() == 2:
            tensors[name] = tensor.T.contiguous()


@by_layer
def interleave(tensors: Tensors, layer: str) -> None:
    for name in ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias"):
        heads = tensors[f"{layer}self_attn.{name}"].unflatten(0, (-1, 2, HEAD_DIM // 2))
        tensors[f"{layer}self_attn.{name}"] = heads.transpose(1, 2).flatten(0, 2).contiguous()


@by_layer
def halve_gates(tensors: Tensors, layer: str) -> None:
    parts = pop(tensors, layer + "mlp.", "gate up", "weight")
    tensors[f"{layer}mlp.gate_up.weight"] = torch.cat(parts)


@by_layer
def alternate_gates(tensors: Tensors, layer: str) -> None:
    gate, up = pop(tensors, layer + "mlp.", "gate up", "weight")
    tensors[f"{layer}mlp.gate_up.weight"] = torch.stack((gate, up), dim=1).flatten(0, 1)


@by_layer
def subtract_one(tensors: Tensors, layer: str) -> None:
    for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        tensors[layer + name] = tensors[layer + name] - 1
    if layer.endswith("1."):
        tensors["model.norm.weight"] = tensors["model.norm.weight"] - 1


ONE_TENSOR = {"q": FUSED, "k": FUSED, "v": FUSED}
GATE_UP = {"gate": LAYER + "mlp.gate_up", "up": LAYER + "mlp.gate_up"}
FORMS: dict[str, tuple[Callable[[Tensors], None], WeightNames]] = {
    "q, k and v in one": (concatenate, WeightNames(**ONE_TENSOR, qkv=FusedQkv())),
    "one by key/value head": (group, WeightNames(**ONE_TENSOR, qkv=FusedQkv(groups=None))),
    "in another order": (reorder, WeightNames(**ONE_TENSOR, qkv=FusedQkv("qvk", groups=3))),
    "transposed": (transpose, WeightNames(**ONE_TENSOR, qkv=FusedQkv(), transposed=True)),
    "pairs side by side": (interleave, WeightNames(interleaved_rope=True)),
    "gates before ups": (halve_gates, WeightNames(**GATE_UP, gate_up=GateUp.HALVES)),
    "gates beside ups": (alternate_gates, WeightNames(**GATE_UP, gate_up=GateUp.ALTERNATING)),
    "norms less one": (subtract_one, WeightNames(norm_offset=1.0)),
}


def with_names(checkpoint: Checkpoint, folder: Path, names: WeightNames) -> Checkpoint:
    return replace(checkpoint, folder=folder, family=replace(checkpoint.family, names=names))


def products(weights: DecoderWeights) -> list[torch.Tensor]:
    """Results of every layer's products for the same rows, and its norms."""
    x, results = torch.linspace(-1, 1, 120).view(2, 60), [weights.final_norm.weight]
    for layer in weights.layers:
        assert isinstance(layer.mlp, DenseWeights)
        assert layer.input_norm is not None
        inner = layer.mlp.up(x)
        results += [layer.qkv(x), layer.output(x), inner, layer.mlp.down(inner)]
        results.append(layer.input_norm.weight)
    return results


@pytest.mark.parametrize("form", FORMS)
def test_a_stored_form_gives_the_weights_of_separate_tensors(form: str, tmp_path: Path) -> None:
    change, names = FORMS[form]
    plain = read_checkpoint(write_checkpoint(tmp_path / "plain", "qwen2"))
    want = products(load_weights(plain, reference, torch.float32))
    tensors = load_file(plain.folder / "model.safetensors")
    change(tensors)
    (tmp_path / "stored").mkdir()
    save_file(tensors, tmp_path / "stored" / "model.safetensors")
    seen: list[tuple[int, int]] = []

    stored = with_names(plain, tmp_path / "stored", names)
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    got = products(load_weights(stored, reference, torch.float32, progress))

    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert seen[-1] == (4 * plain.parameters, 4 * plain.parameters)


def test_experts_may_be_stacked_with_gates_beside_ups(tmp_path: Path) -> None:
    plain = read_checkpoint(write_checkpoint(tmp_path / "plain", "mixtral"))
    tensors = load_file(plain.folder / "model.safetensors")
    want = load_weights(plain, reference, torch.float32)
    for layer in range(2):
        moe = f"model.layers.{layer}.block_sparse_moe.experts"
        gates, ups, downs = (
            torch.stack([tensors.pop(f"{moe}.{number}.{name}.weight") for number in range(5)])
            for name in ("w1", "w3", "w2")
        )
        tensors[f"{moe}.gate_up.weight"] = torch.stack((gates, ups), dim=2).flatten(1, 2)
        tensors[f"{moe}.down.weight"] = downs
    (tmp_path / "stored").mkdir()
    save_file(tensors, tmp_path / "stored" / "model.safetensors")
    moe = LAYER + "block_sparse_moe."
    names = WeightNames(
        router=moe + "gate",
        expert_gate=moe + "experts.gate_up",
        expert_up=moe + "experts.gate_up",
        expert_down=moe + "experts.down",
        gate_up=GateUp.ALTERNATING,
    )

    got = load_weights(with_names(plain, tmp_path / "stored", names), reference, torch.float32)

    x = torch.randn(7, 60)
    for mine, theirs in zip(got.layers, want.layers, strict=True):
        assert isinstance(mine.mlp, MoeWeights)
        assert isinstance(theirs.mlp, MoeWeights)
        assert torch.equal(mine.mlp.experts(x), theirs.mlp.experts(x))


def test_scales_are_settled_when_weights_are_read(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, "llama", tie_word_embeddings=True))
    want, x = load_weights(checkpoint, reference, torch.float32), torch.randn(2, 60)
    layers = tuple(replace(layer, output_scale=0.5) for layer in checkpoint.spec.layers)
    spec = replace(checkpoint.spec, layers=layers, embedding_scale=3.0, logit_scale=0.25)

    got = load_weights(replace(checkpoint, spec=spec), reference, torch.float32)

    assert torch.equal(got.embedding, 3 * want.embedding)
    torch.testing.assert_close(got.output_head(x), want.output_head(x) / 4)
    torch.testing.assert_close(got.layers[1].output(x), want.layers[1].output(x) / 2)
    assert torch.equal(got.layers[1].qkv(x), want.layers[1].qkv(x))


def spec_of(folder: Path) -> DecoderSpec:
    return read_checkpoint(write_checkpoint(folder, "qwen2")).spec


def test_shards_of_every_weight_are_the_whole_together(tmp_path: Path) -> None:
    names = WeightNames(**ONE_TENSOR, qkv=FusedQkv(groups=None), interleaved_rope=True)
    sources = decoder_sources(spec_of(tmp_path), names).all()
    divided = [source for source in sources if source.shard_dim is not None]

    assert {source.shard_dim for source in divided} == {0, 1}
    for source in divided:
        ranks = 3 if "self_attn" in source.name else 1
        stored = torch.randn(source.shape)
        shards = [source.part(stored, rank, ranks) for rank in range(ranks)]
        assert torch.equal(torch.cat(shards, source.shard_dim), source.part(stored))


def test_a_rank_reads_whole_heads() -> None:
    fused = WeightSource(
        "qkv",
        (50 * KV_HEADS, 4),
        slice=RowRuns(0, 20, stride=50, count=KV_HEADS),
        interleave=RotaryPairs(HEAD_DIM, 4),
        shard_dim=0,
    )
    stored = torch.arange(50.0 * KV_HEADS)[:, None].expand(-1, 4)

    second = fused.part(stored, rank=1, ranks=KV_HEADS)[:, 0]

    head = [0, 2, 1, 3, 4, 5, 6, 7, 8, 9]
    assert second.tolist() == [50 + 10 * number + row for number in range(2) for row in head]
    assert fused.part_shape == (20 * KV_HEADS, 4)
