"""Whole models through Triton's entries: the oracle's logits, however batches are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.kernels.attention_scenes import (
    INT8_TOLERANCE,
    TOLERANCE,
    options_of,
    relative_error,
    scene,
)
from support.kernels.checks import assert_near

from kernels.attention_options import Int8Rows
from kernels.formats import KV_AS_COMPUTED, KV_FORMATS, KvFormat, KvInt8
from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

FAMILIES = ["llama", "qwen2", "qwen3", "mixtral"]
CONTEXT = 64
NAMES = {"cpu": "interpret", "cuda": "cuda"}
"""Devices of the service, by the memory that their tensors lie in."""
# Of each step: rows and how many of their tokens, decodes in front.
STEPS = [
    [(0, 1), (2, 40)],
    [(1, 5), (0, 17)],
    [(2, 1), (1, 1), (0, 3)],
    [(0, 1), (1, 1), (2, 1)],
]


def logits_of(
    folder: Path, device: str, dtype: torch.dtype, caches: KvFormat = KV_AS_COMPUTED
) -> torch.Tensor:
    """What the steps give on `device`, in slots that are permuted and poisoned."""
    checkpoint = read_checkpoint(folder)
    ops = reference
    if device != "reference":
        ops = operations_for(NAMES[device], dtype, caches=caches)
    memory = torch.device("cpu" if device == "reference" else device)
    weights = load_weights(checkpoint, ops, dtype, device=memory)
    decoder = Decoder(checkpoint.spec, weights, ops, dtype)
    kept = torch.int8 if isinstance(caches, KvInt8) else dtype
    kv = KvCache(checkpoint.spec, 3 * CONTEXT, kept, memory)
    for cache in kv.k + kv.v:
        (cache.scales if isinstance(cache, Int8Rows) else cache).fill_(float("nan"))
    generator = np.random.default_rng(0)
    table = generator.permutation(3 * CONTEXT).astype(np.int32).reshape(3, CONTEXT)
    lengths, out = np.zeros(3, np.int64), []
    for step in STEPS:
        rows, counts = (np.array(column) for column in zip(*step, strict=True))
        ids = generator.integers(0, checkpoint.spec.vocab_size, counts.sum())
        batch = Batch.build(ids, rows, lengths[rows], counts, table).on(memory)
        lengths[rows] += counts
        out.append(decoder.logits(decoder.forward(batch, kv)).cpu())
    return torch.cat(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_oracles_logits(family: str, device: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, family)
    want = logits_of(tmp_path, "reference", torch.float64)

    assert_near(logits_of(tmp_path, device, torch.float32), want.double(), 1e-5)


def test_bfloat16_is_as_near_as_its_precision_allows(device: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "llama", dtype="bfloat16")
    want = logits_of(tmp_path, "reference", torch.float64)

    assert (logits_of(tmp_path, device, torch.bfloat16) - want).norm() < 2e-2 * want.norm()


def test_a_plan_asks_the_device_for_the_tokens_where_the_host_does_not_know_them(
    device: str,
) -> None:
    one = scene(device, [(1, 9), (1, 33), (5, 20), (17, 17)], num_decodes=2, dtype=torch.float32)
    assert one.chunks.num_tokens is None

    operations = operations_for(NAMES[device], torch.float32)
    plan = operations.plan_attention(one.chunks, one.shape, torch.float32)
    got = operations.attention(one.q, one.k_cache, one.v_cache, plan)

    assert_near(got, one.expected(), TOLERANCE[torch.float32][0])


@pytest.mark.parametrize("names", ["plain", "alibi+window", "soft_cap+sinks"])
@pytest.mark.parametrize("int8", [False, True])
def test_caches_of_either_format_are_attended_to_with_options(
    device: str, names: str, int8: bool
) -> None:
    formats = KV_FORMATS["int8" if int8 else "auto"]
    ops = operations_for(NAMES[device], torch.float32, caches=formats)
    one = scene(device, [(1, 9), (1, 33), (5, 20), (17, 17)], num_decodes=2, dtype=torch.float32)
    options = options_of(device, one.shape.heads, names)
    k, v = one.k_cache.nan_to_num(), one.v_cache.nan_to_num()
    caches: list[Any] = [torch.zeros_like(k), torch.zeros_like(v)]
    if int8:
        scales = torch.full(k.shape[:2], torch.nan, dtype=torch.float16, device=device)
        caches = [Int8Rows(torch.zeros_like(k).to(torch.int8), scales.clone()) for _ in caches]

    ops.store_kv(k, v, torch.arange(len(k), device=device), *caches)
    plan = ops.plan_attention(one.chunks, one.shape, torch.float32, options)
    got = ops.attention(one.q, *caches, plan)

    error = relative_error(got, one.expected(options))
    assert error < (INT8_TOLERANCE if int8 else TOLERANCE[torch.float32][0])


def test_a_model_runs_over_int8_caches(device: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "llama", dtype="bfloat16")
    want = logits_of(tmp_path, "reference", torch.float64)

    got = logits_of(tmp_path, device, torch.bfloat16, KvInt8())

    assert (got - want).norm() < 5e-2 * want.norm()
