"""The decoder against transformers: every family, odd shapes, ragged batches, permuted slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint

from kernels.ops import Operations
from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

CONTEXT = 512
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


class Driver:
    """Runs sequences through a decoder chunk by chunk, in slots that are permuted and poisoned."""

    def __init__(self, folder: Path, sequences: int, dtype: torch.dtype, device: str) -> None:
        checkpoint = read_checkpoint(folder)
        ops = operations_on(device, dtype)
        self.decoder = Decoder(checkpoint.spec, load_weights(checkpoint, ops, dtype), ops, dtype)
        self.kv = KvCache(checkpoint.spec, sequences * CONTEXT, dtype)
        for cache in self.kv.k + self.kv.v:
            cache.fill_(float("nan"))
        slots = np.random.default_rng(0).permutation(sequences * CONTEXT).astype(np.int32)
        self.slot_table = slots.reshape(sequences, CONTEXT)
        self.lengths = np.zeros(sequences, dtype=np.int64)

    def step(self, chunks: Sequence[tuple[int, Sequence[int]]]) -> list[torch.Tensor]:
        """Run (row, tokens) chunks in one pass: log-probabilities after each of their tokens."""
        rows = np.array([row for row, _ in chunks])
        counts = np.array([len(tokens) for _, tokens in chunks])
        ids = np.concatenate([np.asarray(tokens) for _, tokens in chunks])
        batch = Batch.build(ids, rows, self.lengths[rows], counts, self.slot_table)
        self.lengths[rows] += counts
        logits = self.decoder.logits(self.decoder.forward(batch, self.kv))
        return list(logits.log_softmax(dim=-1).split(counts.tolist()))

    def prompts(self, prompts: Sequence[list[int]], sizes: Sequence[int]) -> list[torch.Tensor]:
        """Run prompts side by side, prompt `i` in chunks of `sizes[i]` tokens."""
        parts: list[list[torch.Tensor]] = [[] for _ in prompts]
        while chunks := [
            (row, prompt[self.lengths[row] :][:size])
            for row, (prompt, size) in enumerate(zip(prompts, sizes, strict=True))
            if self.lengths[row] < len(prompt)
        ]:
            chunks.sort(key=lambda chunk: len(chunk[1]))
            for (row, _), logprobs in zip(chunks, self.step(chunks), strict=True):
                parts[row].append(logprobs)
        return [torch.cat(part) for part in parts]

    def greedy(self, last: Sequence[torch.Tensor], steps: int) -> list[list[int]]:
        """Decode all rows together, from the log-probabilities after their last tokens."""
        drawn = [[int(logprobs[-1].argmax())] for logprobs in last]
        for _ in range(steps - 1):
            outs = self.step([(row, ids[-1:]) for row, ids in enumerate(drawn)])
            for ids, logprobs in zip(drawn, outs, strict=True):
                ids.append(int(logprobs[-1].argmax()))
        return drawn


@dataclass
class Oracle:
    """transformers' own model of a checkpoint."""

    model: Any

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def oracle_of(folder: Path) -> Oracle:
    # Imported here: it is slow, and only these tests need it.
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    return Oracle(model.eval())


def random_prompts(vocab: int, lengths: Sequence[int]) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, vocab, length).tolist() for length in lengths]


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
    driver = Driver(checkpoint, 3, torch.float32, device)

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
    driver = Driver(checkpoint, 2, torch.bfloat16, "cpu")

    for got, prompt in zip(driver.prompts(prompts, sizes=(40, 37)), prompts, strict=True):
        assert (got - oracle.logprobs(prompt)).abs().mean() < 0.05


def test_a_shared_prefix_serves_two_sequences(tmp_path: Path) -> None:
    driver = Driver(write_checkpoint(tmp_path), 2, torch.float32, "cpu")
    prompt, own = random_prompts(515, (40, 9))
    whole = driver.prompts([prompt + own], sizes=(49,))[0]

    driver.slot_table[1, :40] = driver.slot_table[0, :40]
    driver.lengths[1] = 40
    shared = driver.step([(1, own)])[0]

    torch.testing.assert_close(shared, whole[40:])
