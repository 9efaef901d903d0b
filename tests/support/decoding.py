"""A decoder driven chunk by chunk, and transformers' own model of the same checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.ops import Operations
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import Checkpoint
from model_svc.weights.loader import load_weights

CONTEXT = 512


class Driver:
    """Runs sequences through a decoder chunk by chunk, in slots that are permuted and poisoned."""

    def __init__(
        self, checkpoint: Checkpoint, ops: Operations, sequences: int, dtype: torch.dtype
    ) -> None:
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


def oracle_of(folder: Path, attention: str = "eager") -> Oracle:
    """Load a checkpoint into transformers, with one of its forms of attention."""
    # Imported here: it is slow, and only these tests need it.
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention,
        experts_implementation="eager",
    )
    return Oracle(model.eval())


def random_prompts(vocab: int, lengths: Sequence[int]) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [generator.integers(0, vocab, length).tolist() for length in lengths]
