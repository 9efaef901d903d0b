"""Tokens drawn on the device are the oracle's, and the CPU's, for equal logits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kernels.sampling_rows import choices_of, draw_all, ragged_of, to_device, uses_of

from kernels.cpu import sampling
from kernels.cpu.filters import Filters
from kernels.philox import Counters, row_words
from kernels.reference import sampling as sampling_reference
from kernels.reference.sampling import Choice
from kernels.triton.sampling.batch import Edits, Uses
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.scratch import Scratch

INF = np.inf
NAN = np.nan
VOCAB = 515  # three tiles, the last of three tokens
PLAIN = Choice(seed=1, position=0, candidate=0)


def expected(logits: np.ndarray, rows: list[Choice]) -> list[int]:
    return [sampling_reference.draw(*pair) for pair in zip(logits, rows, strict=True)]


def cpu_tokens(logits: np.ndarray, rows: list[Choice]) -> list[int]:
    counters = Counters(
        np.array([row.seed for row in rows], np.uint64),
        np.array([row.position for row in rows], np.uint64),
        np.array([row.candidate for row in rows], np.uint64),
    )
    filters = Filters(
        np.array([row.top_k for row in rows], np.int64),
        np.array([row.top_p for row in rows], np.float64),
        np.array([row.min_p for row in rows], np.float64),
    )
    temperatures = np.array([row.temperature for row in rows], np.float32)
    return sampling.draw(logits.copy(), temperatures, counters, filters).tolist()


def as_tensor(logits: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(logits).to(device)


def nasty_rows() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    normal = random.standard_normal(VOCAB).astype(np.float32)
    ids = np.arange(VOCAB)
    rows = {
        "normal": normal * 3,
        "flat": normal * 0.01,
        "steep": normal * 40,
        "all equal": np.zeros(VOCAB),
        "two values": np.where(ids % 3 == 0, 1.5, -1.5),
        "many ties": np.round(normal * 2) / 2,
        "rising": ids * 0.01,
        "falling": ids * -0.01,
        "all but one impossible": np.where(ids == 513, -7.0, -INF),
        "all but four impossible": np.where(ids % 128 == 127, normal, -INF),
        "zeros of both signs": np.where(ids % 2 == 0, -0.0, 0.0),
        "some NaN": np.where(ids % 5 == 0, NAN, normal),
        "infinite": np.where(np.isin(ids, [3, 200, 514]), INF, normal),
        "all impossible": np.full(VOCAB, -INF),
        "all NaN": np.full(VOCAB, NAN),
        "huge": np.where(ids < 2, 3e38, -3e38) * np.where(ids == 1, 0.99, 1.0),
        "close together": 1e4 + normal * 1e-3,
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}


LIMITS: list[dict[str, float]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.2e-38},
    {"temperature": 50.0},
    {"top_k": 1},
    {"top_k": 4},  # bounded by groups
    {"top_k": 60},  # counted
    {"top_k": VOCAB - 1},
    {"top_k": VOCAB},
    {"top_p": 1e-9},
    {"top_p": 0.5},
    {"top_p": 0.999999},
    {"min_p": 1e-3},
    {"min_p": 1.0},
    {"top_k": 4, "top_p": 0.6},
    {"top_k": 200, "top_p": 0.7},
    {"top_k": 200, "top_p": 0.9, "min_p": 0.3, "temperature": 0.7},
    {"top_p": 0.9, "min_p": 0.05},
]

CHOICES = st.builds(
    Choice,
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
    candidate=st.integers(0, 15),
    temperature=st.sampled_from([0.0, 0.05, 0.7, 1.0, 3.0]) | st.floats(1e-3, 100),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 40, 10**6]),
    top_p=st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.9, 0.99999]) | st.floats(1e-6, 1.0),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]) | st.floats(0, 1),
)


@st.composite
def batches(draw_from: st.DrawFn) -> tuple[np.ndarray, list[Choice]]:
    rows = draw_from(st.lists(CHOICES, min_size=1, max_size=4))
    vocab_size = draw_from(st.sampled_from([1, 2, 3, 127, 128, 129]) | st.integers(1, 400))
    random = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    spread = draw_from(st.sampled_from([0.0, 1.0, 4.0, 30.0]))
    logits = random.standard_normal((len(rows), vocab_size)) * spread
    if draw_from(st.booleans()):
        logits = np.round(logits * 2) / 2  # ties
    for odd in draw_from(st.lists(st.sampled_from([-INF, -INF, NAN, INF]), max_size=3)):
        logits[random.integers(len(rows)), random.integers(vocab_size)] = odd
    return logits.astype(np.float32), rows


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches())
def test_the_oracles_tokens_are_drawn(device: str, batch: tuple[np.ndarray, list[Choice]]) -> None:
    logits, rows = batch
    assert draw_all(as_tensor(logits, device), rows) == expected(logits, rows)


@pytest.mark.parametrize("turn", range(len(LIMITS)), ids=lambda turn: str(LIMITS[turn]))
def test_the_oracles_tokens_are_drawn_from_nasty_rows(device: str, turn: int) -> None:
    # Every kind of row meets every third kind of limits or so; the interpreter is slow.
    named = {n: row for i, (n, row) in enumerate(nasty_rows().items()) if (i + turn) % 3 == 0}
    logits = np.stack(list(named.values()))
    rows = [replace(PLAIN, seed=i * 977, position=i, **LIMITS[turn]) for i in range(len(logits))]
    tokens = draw_all(as_tensor(logits, device), rows, block=256, tile=1024)
    found = dict(zip(named, tokens, strict=True))
    assert found == dict(zip(named, expected(logits, rows), strict=True))


def test_lists_longer_than_a_tile_are_searched_whole(device: str) -> None:
    named = nasty_rows()
    logits = np.stack([named[name] for name in ("two values", "all equal", "many ties", "normal")])
    limits = [{"top_k": 300}, {"top_p": 0.5}, {"top_k": 200, "top_p": 0.7}, {"top_k": 4}]
    rows = [replace(PLAIN, seed=i, **each) for i, each in enumerate(limits)]
    assert draw_all(as_tensor(logits, device), rows, tile=128) == expected(logits, rows)


def test_a_temperature_that_float32_calls_zero_takes_the_likeliest(device: str) -> None:
    logits = np.array([[1.0, 3.0, 3.0, 2.0]] * 8, np.float32)
    rows = [replace(PLAIN, seed=i, temperature=1e-38) for i in range(8)]
    assert draw_all(as_tensor(logits, device), rows) == [1] * 8


def test_a_large_vocabulary_is_drawn_from_as_on_the_cpu(device: str) -> None:
    random = np.random.default_rng(3)
    limits = [{}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.95}, {"min_p": 0.01}, {"top_k": 3000}]
    logits = random.standard_normal((2 * len(limits), 32_001)).astype(np.float32)
    logits *= np.tile([[2.0], [12.0]], (len(limits), 1)).astype(np.float32)
    rows = [replace(PLAIN, seed=7, position=i, **each) for i, each in enumerate(limits * 2)]
    found = draw_all(as_tensor(logits, device), rows, block=8192, tile=1024)
    assert found == cpu_tokens(logits, rows)


@pytest.mark.parametrize("limits", [{}, {"top_k": 2}, {"top_p": 0.9}], ids=str)
def test_of_equal_scores_the_lowest_id_wins(device: str, limits: dict[str, float]) -> None:
    # Among so many words some are equal; two tokens with such words and equal logits tie.
    size = 200_000
    words = row_words(Counters(*np.zeros((3, 1), np.uint64)), size)[0]
    order = np.argsort(words, kind="stable")
    twins = np.flatnonzero(np.diff(words[order]) == 0)
    low, high = order[twins[0]], order[twins[0] + 1]
    assert low < high
    logits = np.full((1, size), -INF, np.float32)
    logits[0, [low, high]] = 1.0
    rows = [replace(PLAIN, seed=0, **limits)]
    assert draw_all(as_tensor(logits, device), rows, block=32_768) == [low]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_widened_first(device: str, dtype: torch.dtype) -> None:
    logits = (torch.randn(len(LIMITS), 300) * 4).to(dtype)
    rows = [replace(PLAIN, seed=i, **limits) for i, limits in enumerate(LIMITS)]
    found = draw_all(logits.to(device), rows)
    assert found == expected(logits.float().numpy(), rows)


def test_rows_may_lie_apart(device: str) -> None:
    wide = torch.full((3, 500), torch.nan, device=device)
    logits = wide[:, 100:400]
    logits.copy_(torch.randn(3, 300))
    rows = [replace(PLAIN, **limits) for limits in ({}, {"top_k": 2}, {"top_p": 0.8})]
    assert draw_all(logits, rows) == expected(logits.cpu().numpy(), rows)


def test_a_rows_token_does_not_depend_on_its_batch(device: str) -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((18, 300)).astype(np.float32) * 3
    rows = [replace(PLAIN, seed=i * 31, **limits) for i, limits in enumerate(LIMITS)]
    scratch = Scratch.allocate(20, 300, device)
    alone = draw_all(as_tensor(logits, device), rows)
    for _ in range(2):
        some = random.permutation(18)[: random.integers(2, 9)]
        batch = as_tensor(logits[some], device), [rows[i] for i in some]
        tokens = torch.empty(len(some), dtype=torch.int32, device=device)
        draw(batch[0], choices_of(batch[1], device), None, Uses(), scratch, tokens)
        assert tokens.tolist() == [alone[i] for i in some]


def test_a_draw_leaves_logits_alone_and_scratch_ready_for_the_next(device: str) -> None:
    logits = torch.randn(len(LIMITS), 300, device=device)
    logits[0, :5] = torch.tensor([-INF, NAN, INF, 0.0, -0.0])
    before = logits.clone()
    rows = [replace(PLAIN, seed=i, **limits) for i, limits in enumerate(LIMITS)]
    scratch = Scratch.allocate(len(rows), 300, device)
    tokens = torch.empty(len(rows), dtype=torch.int32, device=device)
    draw(logits, choices_of(rows, device), None, Uses(), scratch, tokens)
    assert torch.equal(logits.view(torch.int32), before.view(torch.int32))
    assert not scratch.shortlist.lengths.any()
    assert not scratch.histogram.counts.any()
    assert not scratch.histogram.masses.any()


def test_edits_come_before_the_draw(device: str) -> None:
    vocab_size = 300
    logits = torch.randn(4, vocab_size, device=device) * 2
    rows = [
        replace(PLAIN, temperature=0.0),
        replace(PLAIN, seed=2),
        replace(PLAIN, seed=3, top_k=5, top_p=0.9),
        replace(PLAIN, seed=4, top_p=0.5),
    ]
    bias = [{7: 9.0}, {}, {250: 4.0, 3: 4.5}, {0: -100.0}]
    prompts, outputs = [[1, 2], [5], [], [9]], [[7, 7], [], [3, 250, 3], [8, 9]]
    penalties = [(1.5, 0.5, 2.0), (1.0, 0.0, 0.0), (1.1, 0.2, 0.7), (0.5, 1.0, 0.1)]
    suppressed = [[], [], [250], list(range(1, vocab_size))]
    ids = [sorted({*p, *o}) for p, o in zip(prompts, outputs, strict=True)]
    counts = [[o.count(token) for token in row] for row, o in zip(ids, outputs, strict=True)]
    edits = Edits(
        ragged_of([list(b) for b in bias], [list(b.values()) for b in bias], np.float32, device),
        ragged_of(ids, counts, np.int32, device),
        *(to_device([row[i] for row in penalties], np.float32, device) for i in range(3)),
        ragged_of(suppressed, None, np.int32, device),
        to_device([1] * 4, np.int64, device),
    )
    adjusted = [
        sampling_reference.adjust(row, b, p, o, x)
        for row, b, p, o, x in zip(
            logits.cpu().numpy(), bias, prompts, outputs, penalties, strict=True
        )
    ]
    for row, tokens in zip(adjusted, suppressed, strict=True):
        row[tokens] = -INF
    assert draw_all(logits, rows, edits) == expected(np.stack(adjusted), rows)


def test_a_batch_uses_no_more_than_its_rows_ask() -> None:
    vocab_size = 128 * 50
    for limits, filters, tally in [
        ({}, False, False),
        ({"top_k": vocab_size}, False, False),
        ({"min_p": 0.1}, True, False),
        ({"top_k": 50, "top_p": 0.9}, True, False),
        ({"top_k": 51}, True, True),
        ({"top_p": 0.9}, True, True),
    ]:
        rows = [PLAIN, replace(PLAIN, **limits)]
        assert uses_of(rows, vocab_size) == Uses(filters, tally), limits


@pytest.mark.parametrize(("rows", "vocab_size"), list(product([2, 3], [128, 129]))[1:])
def test_what_scratch_has_no_room_for_is_refused(device: str, rows: int, vocab_size: int) -> None:
    scratch = Scratch.allocate(2, 128, device)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    choices = choices_of([PLAIN] * rows, device)
    with pytest.raises(ValueError, match="scratch"):
        draw(torch.zeros(rows, vocab_size, device=device), choices, None, Uses(), scratch, tokens)


def test_arrays_of_another_length_or_kind_are_refused(device: str) -> None:
    scratch = Scratch.allocate(2, 128, device)
    logits = torch.zeros(2, 128, device=device)
    tokens = torch.empty(2, dtype=torch.int32, device=device)
    choices = choices_of([PLAIN] * 2, device)
    with pytest.raises(ValueError, match="top_k"):
        short = choices._replace(top_k=choices.top_k[:1])
        draw(logits, short, None, Uses(), scratch, tokens)
    with pytest.raises(ValueError, match="tokens"):
        draw(logits, choices, None, Uses(), scratch, tokens.long())
    with pytest.raises(ValueError, match="contiguous"):
        draw(torch.zeros(128, 2, device=device).T, choices, None, Uses(), scratch, tokens)
