"""Rows on a device draw what the CPU's sampler draws, and tell the same of it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from model_svc.sampling.cpu_sampler import Drawn, Sampler, alternative_records
from model_svc.sampling.device_rows import DeviceRows, EditedDraws, asked_of
from model_svc.sampling.draws import Draws
from model_svc.sampling.params import SampleInput, SamplingParams, TokenHistory
from model_svc.sampling.rows import SamplingRows


def device_draw(logits: torch.Tensor, inputs: list[SampleInput]) -> Drawn:
    """Draw for rows that hold `inputs`."""
    count, vocab_size = logits.shape
    draws, rows = Draws.of(inputs), np.arange(count)
    host = SamplingRows(count, vocab_size + 2, vocab_size)
    nothing = np.empty(0, np.int32)
    for row, one in enumerate(inputs):
        host.admit(row, np.zeros(1, np.int32), nothing, one.candidate, one.spec)
        host._choices.records[row] = draws.choices[row]
        host._histories[row] = one.history if one.spec.needs_history else None
    device = DeviceRows(host, vocab_size, torch.device("cpu"))
    device.write([torch.from_numpy(part) for part in device.admitted(rows.tolist()).parts])
    edited = [torch.from_numpy(part) for part in EditedDraws.of(count, dict(draws.edited)).parts]
    at, asked = torch.from_numpy(rows), asked_of(draws.choices)
    tokens = device.draw(logits, at, draws.choices, edited, host.penalised(rows))
    for row, one in enumerate(inputs):
        if one.spec.needs_history and one.history is not None:
            assert noted(device, row) == counts_after(one.history, int(tokens[row]))
    assert device.last_tokens.tolist() == tokens.tolist()
    if asked is None:
        return Drawn(tokens.numpy(), np.full(count, np.nan, np.float32), ())
    told = device.read(logits, tokens, torch.tensor(asked))
    counts = np.clip(asked, 0, min(told.ids.shape[1], vocab_size)).tolist()
    records = (
        alternative_records(told.ids[row, :most].numpy(), told.likely[row, :most].numpy())
        for row, most in enumerate(counts)
    )
    return Drawn(tokens.numpy(), told.chosen.numpy(), tuple(records))


def noted(device: DeviceRows, row: int) -> dict[int, int]:
    """The history of a row on the device."""
    at = torch.tensor([row])
    history = device._history(at)
    begin, count = int(history.starts), int(history.lengths)
    assert history.amounts is not None
    ids, counts = (part[begin : begin + count].tolist() for part in (history.ids, history.amounts))
    return dict(zip(ids, counts, strict=True))


def counts_after(history: TokenHistory, token: int) -> dict[int, int]:
    """How often an output has each known token once `token` is drawn."""
    ids, counts = (part.tolist() for part in history.occurrences())
    known = dict(zip(ids, counts, strict=True))
    return known | {token: known.get(token, 0) + 1}


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
    before = logits.clone()

    assert_same(device_draw(logits, draws), Sampler(vocab_size).draw(logits, Draws.of(draws)))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("spread", [3.0, 1e38])
def test_extremes_get_the_cpus_tokens(spread: float) -> None:
    draws = extreme_draws()
    logits = (torch.randn(len(draws), 40) * spread).clamp(-3.4e38, 3.4e38)

    assert_same(device_draw(logits, draws), Sampler(40).draw(logits, Draws.of(draws)))


@pytest.mark.parametrize("alternatives", [0, 3])
def test_given_tokens_are_scored(alternatives: int) -> None:
    logits, tokens = torch.randn(4, 333), np.array([0, 332, 5, 5], np.int32)
    device = DeviceRows(SamplingRows(4, 8, 333), 333, torch.device("cpu"))

    asked = torch.full((4,), alternatives, dtype=torch.int32)
    told = device.read(logits, torch.from_numpy(tokens), asked)

    want, expected = Sampler(333).score(logits, tokens, alternatives)
    np.testing.assert_allclose(told.chosen.numpy(), want, atol=1e-5)
    for row, others in enumerate(expected):
        assert told.ids[row, :alternatives].tolist() == others["token"].tolist()


def test_rows_advance_by_what_is_drawn_and_draw_on_from_there() -> None:
    """Several draws without the host: each is that of the CPU at the next position."""
    vocab_size, prompt = 40, np.array([1, 5, 9, 9], np.int32)
    penalties = {"repetition_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.9}
    params = [SamplingParams(seed=4, **penalties), SamplingParams(seed=5)]
    host, cpu = (SamplingRows(2, 32, vocab_size) for _ in range(2))
    for row, own in enumerate(params):
        for rows in (host, cpu):
            rows.admit(row, prompt, np.empty(0, np.int32), row, own)
    device, at = DeviceRows(host, vocab_size, torch.device("cpu")), np.arange(2)
    device.write([torch.from_numpy(part) for part in device.admitted([0, 1]).parts])
    for _ in range(12):
        logits = torch.randn(2, vocab_size)
        want = Sampler(vocab_size).draw(logits, cpu.draws(at))
        cpu.advance(at, want.tokens)
        draws = host.draws(at)
        parts = EditedDraws.of(2, dict(draws.edited)).parts
        edited = [torch.from_numpy(part) for part in parts]
        got = device.draw(logits, torch.from_numpy(at), draws.choices, edited, penalised=True)
        host.promise(at)

        assert got.tolist() == want.tokens.tolist()
