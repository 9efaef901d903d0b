"""Evaluation of a trained model: held-out loss, use of the experts, greedy samples.

Invariant: nothing here changes the model, and all of it runs in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name the field knows it by)
from tokenizers import Tokenizer

from tools.demo_model.mixtral import Mixtral
from tools.demo_model.vocabulary import bytes_per_token
from tools.demo_model.windows import validation_windows

WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one state of the model."""

    tokens: int
    nats_per_token: float
    bits_per_byte: float
    expert_shares: tuple[tuple[float, ...], ...]

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(self.nats_per_token)


@torch.inference_mode()
def evaluate(model: Mixtral, tokenizer: Tokenizer, stream: np.ndarray, length: int) -> Evaluation:
    """Score a held-out stream.

    Args:
        model: weights to score.
        tokenizer: what made the stream.
        stream: token ids `[tokens]`.
        length: window in tokens; each starts without what came before it.
    """
    inputs, targets = validation_windows(stream, length)
    nats = 0.0
    counts = torch.zeros(model.shape.num_hidden_layers, model.shape.num_local_experts)
    batches = (torch.split(windows, WINDOWS_AT_ONCE) for windows in (inputs, targets))
    for ids, wanted in zip(*batches, strict=True):
        hidden, _, used = model(ids)
        logits = model.logits(hidden).flatten(0, 1)
        nats += float(F.cross_entropy(logits, wanted.flatten(), reduction="sum"))
        counts += used
    scored_bytes = int(bytes_per_token(tokenizer)[targets.numpy()].sum())
    shares = counts / counts.sum(dim=1, keepdim=True)
    return Evaluation(
        tokens=targets.numel(),
        nats_per_token=nats / targets.numel(),
        bits_per_byte=nats / math.log(2) / max(1, scored_bytes),
        expert_shares=tuple(tuple(row) for row in shares.tolist()),
    )


@torch.inference_mode()
def greedy(model: Mixtral, tokenizer: Tokenizer, prompt: str, max_tokens: int) -> str:
    """Continue a prompt with the likeliest token each time, until a turn or document ends.

    Args:
        model: weights to run; the whole sequence is recomputed for every token.
        tokenizer: of the model.
        prompt: text, special tokens included.
        max_tokens: the most that is added.

    Returns:
        The added text.
    """
    ids = tokenizer.encode(prompt).ids
    start = len(ids)
    stops = {tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|end|>")}
    for _ in range(max_tokens):
        hidden, _, _ = model(torch.tensor([ids]))
        token = int(model.logits(hidden[0, -1]).argmax())
        if token in stops:
            break
        ids.append(token)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=False))
