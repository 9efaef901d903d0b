"""Families of one file of data each, against transformers: forms that no served family has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import Driver, Oracle, oracle_of, random_prompts
from support.families import COHERE, FALCON, GEMMA2, GLM4, NEOX, PHI3, checkpoint_of, write_random

from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.family import Family
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import Checkpoint
from model_svc.weights.loader import load_weights

CASES: dict[str, tuple[str, Family, dict[str, Any]]] = {
    "sandwich norms": ("glm4", GLM4, {"head_dim": 8, "attention_bias": True}),
    "fused tensors": ("phi3", PHI3, {}),
    "parallel residual": ("cohere", COHERE, {}),
    "windows and caps": (
        "gemma2",
        GEMMA2,
        {
            "head_dim": 8,
            "sliding_window": 11,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 16,
        },
    ),
    "parallel residual with two norms": ("gpt_neox", NEOX, {"num_key_value_heads": 6}),
    "norms and biases in sequence": (
        "gpt_neox",
        NEOX,
        {"num_key_value_heads": 6, "use_parallel_residual": False},
    ),
    "parallel residual with ALiBi": (
        "falcon",
        FALCON,
        {"alibi": True, "new_decoder_architecture": False, "ffn_hidden_size": 100},
    ),
}


@dataclass(frozen=True)
class Served:
    """A checkpoint, and transformers' own model of it."""

    checkpoint: Checkpoint
    oracle: Oracle


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    model_type, family, entries = CASES[request.param]
    folder = write_random(tmp_path_factory.mktemp("family"), model_type, **entries)
    # Falcon's eager attention adds ALiBi twice.
    oracle = oracle_of(folder, "sdpa" if model_type == "falcon" else "eager")
    return Served(checkpoint_of(folder, family), oracle)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_prompts_in_chunks_and_decodes_are_transformers(served: Served, device: str) -> None:
    ops = reference if device == "reference" else operations_for(device, torch.float32)
    prompts = random_prompts(served.checkpoint.spec.vocab_size, (61, 17, 40))
    driver = Driver(served.checkpoint, ops, 3, torch.float32)

    logprobs = driver.prompts(prompts, sizes=(16, 1, 40))
    drawn = driver.greedy(logprobs, steps=12)

    for got, ids, prompt in zip(logprobs, drawn, prompts, strict=True):
        want = served.oracle.logprobs(prompt + ids)
        assert (got - want[: len(prompt)]).abs().max() < 1e-4
        assert ids == want[len(prompt) - 1 : -1].argmax(dim=-1).tolist()


def test_the_last_layer_may_leave_out_rows(served: Served) -> None:
    checkpoint, dtype = served.checkpoint, torch.float32
    ops = operations_for("cpu", dtype)
    decoder = Decoder(checkpoint.spec, load_weights(checkpoint, ops, dtype), ops, dtype)
    whole, part = (KvCache(checkpoint.spec, 96, dtype) for _ in range(2))
    table = np.random.default_rng(0).permutation(96).astype(np.int32).reshape(4, 24)
    counts, zeros = np.array([1, 20, 7, 9]), np.zeros(4, np.int64)
    batch = Batch.build(np.arange(3, 40), np.arange(4), zeros, counts, table)

    got = decoder.forward(batch, part, batch.finals([0, 2, 3]))

    lasts = np.cumsum(counts)[[0, 2, 3]] - 1
    torch.testing.assert_close(got, decoder.forward(batch, whole)[lasts], rtol=1e-5, atol=1e-5)
