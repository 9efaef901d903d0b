"""The KV cache has the size that its slots are said to take."""

from __future__ import annotations

from pathlib import Path

import torch
from support.checkpoints import write_checkpoint

from model_svc.models.kv_cache import KvCache, bytes_per_slot
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
    assert kv.k[0].scales.shape == (7, spec.kv_heads)
