"""Whole models through Triton's entries: the oracle's logits, however batches are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.kernels.checks import assert_near

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


def logits_of(folder: Path, device: str, dtype: torch.dtype) -> torch.Tensor:
    """What the steps give on `device`, in slots that are permuted and poisoned."""
    checkpoint = read_checkpoint(folder)
    ops = reference if device == "reference" else operations_for(NAMES[device], dtype)
    memory = torch.device("cpu" if device == "reference" else device)
    weights = load_weights(checkpoint, ops, dtype, device=memory)
    decoder = Decoder(checkpoint.spec, weights, ops, dtype)
    kv = KvCache(checkpoint.spec, 3 * CONTEXT, dtype, memory)
    for cache in kv.k + kv.v:
        cache.fill_(float("nan"))
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
    from support.kernels.attention_scenes import TOLERANCE, scene

    one = scene(device, [(1, 9), (1, 33), (5, 20), (17, 17)], num_decodes=2, dtype=torch.float32)
    assert one.chunks.num_tokens is None

    operations = operations_for(NAMES[device], torch.float32)
    plan = operations.plan_attention(one.chunks, one.shape, torch.float32)
    got = operations.attention(one.q, one.k_cache, one.v_cache, plan)

    assert_near(got, one.expected(), TOLERANCE[torch.float32][0])
