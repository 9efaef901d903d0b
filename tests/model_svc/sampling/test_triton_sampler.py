"""The sampler for a device draws what the CPU's draws, and tells the same of it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from model_svc.sampling.cpu_sampler import Drawn, Sampler
from model_svc.sampling.draws import Draws
from model_svc.sampling.params import SampleInput, SamplingParams, TokenHistory
from model_svc.sampling.triton_sampler import DeviceSampler


def device_sampler(vocab_size: int) -> DeviceSampler:
    return DeviceSampler(vocab_size, torch.device("cpu"))


def draw_of(position: int = 0, history: TokenHistory | None = None, **choices: Any) -> SampleInput:
    return SampleInput(SamplingParams(**{"seed": 1, **choices}), position, position % 3, history)


def history_of(vocab_size: int) -> TokenHistory:
    prompt, output = np.array([1, 5, 9, 9], np.int32), np.array([5, 5, 30], np.int32)
    return TokenHistory(vocab_size, prompt, output)


def draws_of(vocab_size: int) -> list[SampleInput]:
    """Every option alone and some together, so that rows of all kinds stand side by side."""
    penalties = {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": -0.2}
    return [
        draw_of(temperature=0.0),
        draw_of(0, seed=2**64 - 1, logprobs=0),
        draw_of(1, temperature=0.7, top_k=5),
        draw_of(2, top_p=0.6, logprobs=3),
        draw_of(3, min_p=0.2, top_k=vocab_size - 1),
        draw_of(4, logit_bias={3: 40.0, vocab_size + 7: 99.0}),
        draw_of(5, history=history_of(vocab_size), **penalties),
        draw_of(6, min_tokens=9, suppressed_ids=(0, 3, 8)),
        draw_of(9, min_tokens=9, suppressed_ids=tuple(range(vocab_size))),
        draw_of(7, history=history_of(vocab_size), top_p=0.9, **penalties, logprobs=20),
        draw_of(8, temperature=0.0, top_k=3, logit_bias={1: -100.0}, logprobs=1),
    ]


def extreme_draws() -> list[SampleInput]:
    """Each extreme of one option with each of another, for a vocabulary of 40."""
    most, least = float(np.finfo(np.float32).max), 1e-45
    filters: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.2e-38},
        {"temperature": most},
        {"temperature": least},
        {"top_p": least},
        {"top_k": 2, "top_p": 0.5},
        {"min_p": least},
    ]
    edits: list[dict[str, Any]] = [
        {"repetition_penalty": most},
        {"repetition_penalty": least, "frequency_penalty": most},
        {"presence_penalty": most, "frequency_penalty": most},
        {"frequency_penalty": -most, "logit_bias": {5: most, 9: -most, 2: most}},
        {"logit_bias": {token: (most, -most, -math.inf)[token % 3] for token in range(40)}},
        {"logit_bias": dict.fromkeys(range(40), -math.inf), "presence_penalty": -most},
        {"bad_sequences": ((7,), (3, 30, 8), (2, 5))},
    ]
    history = history_of(40)
    return [
        draw_of(place, history, **one, **other)._replace(banned=(8, 5) if place % 2 else ())
        for place, (one, other) in enumerate(product(filters, edits))
    ]


def assert_same(got: Drawn, want: Drawn) -> None:
    assert got.tokens.tolist() == want.tokens.tolist()
    assert got.tokens.dtype == np.int32
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
    for mine, theirs in zip(got.alternatives, want.alternatives, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine["token"].tolist() == theirs["token"].tolist()
        np.testing.assert_allclose(mine["logprob"], theirs["logprob"], atol=1e-5)


@pytest.mark.parametrize("vocab_size", [40, 515])
def test_rows_of_every_option_get_the_cpus_tokens(vocab_size: int) -> None:
    draws = draws_of(vocab_size)
    logits = torch.randn(len(draws), vocab_size) * 3
    before, sampler = logits.clone(), device_sampler(vocab_size)

    for _ in range(2):  # the second finds the memory that the first has left
        assert_same(
            sampler.draw(logits, Draws.of(draws)), Sampler(vocab_size).draw(logits, Draws.of(draws))
        )
    assert torch.equal(logits, before)


@pytest.mark.parametrize("spread", [3.0, 1e38])
def test_extremes_get_the_cpus_tokens(spread: float) -> None:
    draws = extreme_draws()
    logits = (torch.randn(len(draws), 40) * spread).clamp(-3.4e38, 3.4e38)

    assert_same(
        device_sampler(40).draw(logits, Draws.of(draws)), Sampler(40).draw(logits, Draws.of(draws))
    )


def test_a_draw_needs_no_row() -> None:
    drawn = device_sampler(40).draw(torch.empty(0, 40), Draws.of([]))

    assert_same(drawn, Sampler(40).draw(torch.empty(0, 40), Draws.of([])))


@pytest.mark.parametrize("alternatives", [0, 3])
def test_given_tokens_are_scored(alternatives: int) -> None:
    logits, tokens = torch.randn(4, 333), np.array([0, 332, 5, 5], np.int32)

    got, others = device_sampler(333).score(logits, tokens, alternatives)

    want, expected = Sampler(333).score(logits, tokens, alternatives)
    assert_same(Drawn(tokens, got, others), Drawn(tokens, want, expected))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[1, 5\]"):
        device_sampler(5).draw(torch.zeros(1, 4), Draws.of([draw_of()]))
