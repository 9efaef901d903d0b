"""The decoder against transformers: every family, odd shapes, ragged batches, permuted slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.decoding import Driver, Oracle, oracle_of, random_prompts

from kernels.ops import Operations
from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, 5 heads on 1, long rope": (
        "llama",
        {
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "head_dim": 20,
            "rope_parameters": LLAMA3 | {"rope_theta": 500_000.0},
        },
    ),
    "llama, tied, all biases, old rope entries": (
        "llama",
        {
            "vocab_size": 997,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
    ),
    "qwen2, tied": ("qwen2", {"vocab_size": 997, "tie_word_embeddings": True}),
    "qwen2, a window in the second layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
    ),
    "qwen3, heads wider than hidden": (
        "qwen3",
        {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 32},
    ),
    "mixtral, 5 experts": ("mixtral", {"rope_theta": 1e6}),
    "mixtral, 3 large experts, 1 chosen": (
        "mixtral",
        {"num_local_experts": 3, "num_experts_per_tok": 1, "intermediate_size": 700},
    ),
}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_the_last_layer_may_leave_out_rows_that_nobody_wants(
    family: str, device: str, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, family))
    ops = operations_on(device, torch.float32)
    weights = load_weights(checkpoint, ops, torch.float32)
    decoder = Decoder(checkpoint.spec, weights, ops, torch.float32)
    whole, part = (KvCache(checkpoint.spec, 96, torch.float32) for _ in range(2))
    table = np.random.default_rng(0).permutation(96).astype(np.int32).reshape(4, 24)
    finals = [0, 2, 3]
    for starts, counts in (([0, 0, 0, 0], [1, 20, 7, 9]), ([1, 20, 7, 9], [1, 1, 5, 2])):
        lasts = np.cumsum(counts)[finals] - 1
        ids = np.arange(sum(counts)) % checkpoint.spec.vocab_size
        batch = Batch.build(ids, np.arange(4), np.array(starts), np.array(counts), table)

        got = decoder.forward(batch, part, batch.finals(finals))

        torch.testing.assert_close(got, decoder.forward(batch, whole)[lasts], rtol=1e-5, atol=1e-5)
        if device == "cpu":  # exact, whatever else is in the step
            assert torch.equal(got, decoder.forward(batch, whole)[lasts])
        slots = [
            table[row, : start + count]
            for row, (start, count) in enumerate(zip(starts, counts, strict=True))
        ]
        own = torch.from_numpy(np.concatenate(slots)).long()
        for mine, theirs in zip(part.k + part.v, whole.k + whole.v, strict=True):
            torch.testing.assert_close(mine[own], theirs[own], rtol=1e-5, atol=1e-5)


def operations_on(device: str, dtype: torch.dtype) -> Operations:
    return reference if device == "reference" else operations_for(device, dtype)


def driver_of(folder: Path, sequences: int, dtype: torch.dtype, device: str) -> Driver:
    return Driver(read_checkpoint(folder), operations_on(device, dtype), sequences, dtype)


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, overrides = CASES[request.param]
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), family, **overrides)


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> Oracle:
    return oracle_of(checkpoint)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_prompt_logprobs_and_greedy_tokens_are_transformers(
    checkpoint: Path, oracle: Oracle, device: str
) -> None:
    vocab = read_checkpoint(checkpoint).spec.vocab_size
    prompts = random_prompts(vocab, (301, 37, 150))
    driver = driver_of(checkpoint, 3, torch.float32, device)

    logprobs = driver.prompts(prompts, sizes=(64, 1, 29))
    drawn = driver.greedy(logprobs, steps=64)

    for got, ids, prompt in zip(logprobs, drawn, prompts, strict=True):
        want = oracle.logprobs(prompt + ids)
        assert (got - want[: len(prompt)]).abs().max() < 1e-4
        # Each token is the likeliest after those before it: what drawing them one by one gives.
        assert ids == want[len(prompt) - 1 : -1].argmax(dim=-1).tolist()


def test_bfloat16_stays_near_float32(checkpoint: Path, oracle: Oracle) -> None:
    vocab = read_checkpoint(checkpoint).spec.vocab_size
    prompts = random_prompts(vocab, (90, 37))
    driver = driver_of(checkpoint, 2, torch.bfloat16, "cpu")

    for got, prompt in zip(driver.prompts(prompts, sizes=(40, 37)), prompts, strict=True):
        assert (got - oracle.logprobs(prompt)).abs().mean() < 0.05


def test_a_shared_prefix_serves_two_sequences(tmp_path: Path) -> None:
    driver = driver_of(write_checkpoint(tmp_path), 2, torch.float32, "cpu")
    prompt, own = random_prompts(515, (40, 9))
    whole = driver.prompts([prompt + own], sizes=(49,))[0]

    driver.slot_table[1, :40] = driver.slot_table[0, :40]
    driver.lengths[1] = 40
    shared = driver.step([(1, own)])[0]

    torch.testing.assert_close(shared, whole[40:])
