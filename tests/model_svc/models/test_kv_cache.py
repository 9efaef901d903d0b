"""The KV cache has the size that its slots are said to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from support.checkpoints import write_checkpoint

from model_svc.models.kv_cache import KvCache, bytes_per_slot
from model_svc.models.spec import LatentSpec
from model_svc.weights.checkpoint import read_checkpoint


def test_bytes_per_slot_are_the_bytes_of_all_layers(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path)).spec

    kv = KvCache(spec, slots=7, dtype=torch.bfloat16)

    held = sum(cache.untyped_storage().nbytes() for cache in (*kv.k, *kv.v))
    assert held == 7 * kv.bytes_per_slot == 7 * bytes_per_slot(spec, torch.bfloat16)
    assert {tuple(cache.shape) for cache in (*kv.k, *kv.v)} == {(7, 3, 10)}


def test_int8_has_a_scale_for_each_token_and_head(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path, "llama")).spec

    kv = KvCache(spec, slots=7, dtype=torch.int8)

    tensors = [part for layer in (*kv.k, *kv.v) for part in (layer.rows, layer.scales)]
    held = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    assert held == 7 * kv.bytes_per_slot
    assert kv.k[0].scales.shape == (7, spec.layers[0].attention.kv_heads)


def test_each_layer_has_its_own_layout(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path)).spec
    first, second = spec.layers
    wide = replace(second.attention, kv_heads=6, head_dim=8)
    spec = replace(spec, layers=(first, replace(second, attention=wide)))

    kv = KvCache(spec, slots=7, dtype=torch.float16)

    assert [tuple(cache.shape) for cache in (*kv.k, *kv.v)] == [(7, 3, 10), (7, 6, 8)] * 2
    assert kv.bytes_per_slot == 2 * 2 * (3 * 10 + 6 * 8)


def test_a_latent_row_is_stored_once_for_keys_and_values(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path)).spec
    first, second = spec.layers
    latent = replace(second.attention, latent=LatentSpec(rank=32, rotary_dim=8))
    spec = replace(spec, layers=(first, replace(second, attention=latent)))

    kv = KvCache(spec, slots=7, dtype=torch.bfloat16)
    int8 = KvCache(spec, slots=7, dtype=torch.int8)

    assert (kv.k[1].shape, kv.v[1].shape) == ((7, 1, 40), (7, 1, 32))
    kv.k[1][3] = torch.arange(40.0)
    assert kv.v[1][3, 0].tolist() == list(range(32))
    assert kv.bytes_per_slot == 2 * 2 * 3 * 10 + 2 * 40
    assert int8.bytes_per_slot == 2 * 3 * (10 + 2) + 40 + 2
    assert int8.v[1].scales is int8.k[1].scales
