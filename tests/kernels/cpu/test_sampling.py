from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu.filters import Filters, kept_tokens, likeliest
from kernels.cpu.logits import log_probabilities, penalise
from kernels.cpu.sampling import argmax, draw
from kernels.philox import Counters, row_words
from kernels.reference import sampling as sampling_reference
from kernels.reference.sampling import Choice

INF = np.inf
NAN = np.nan


def filters(choices: list[Choice]) -> Filters:
    return Filters(
        np.array([choice.top_k for choice in choices], np.int64),
        np.array([choice.top_p for choice in choices], np.float64),
        np.array([choice.min_p for choice in choices], np.float64),
    )


def draw_all(logits: np.ndarray, choices: list[Choice]) -> list[int]:
    counters = Counters(
        np.array([choice.seed for choice in choices], np.uint64),
        np.array([choice.position for choice in choices], np.uint64),
        np.array([choice.candidate for choice in choices], np.uint64),
    )
    temperatures = np.array([choice.temperature for choice in choices], np.float32)
    return draw(logits.copy(), temperatures, counters, filters(choices)).tolist()


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def kept(values: np.ndarray, **limits: float) -> list[int]:
    choice = Choice(0, 0, 0, **limits)
    scaled = values - values.max()
    ids = kept_tokens([scaled], filters([choice]))[0].tolist()
    assert ids == sorted(sampling_reference.kept(scaled, choice))
    return ids


CHOICES = st.builds(
    Choice,
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
    candidate=st.integers(0, 15),
    temperature=st.sampled_from([0.05, 0.7, 1.0, 3.0]) | st.floats(1e-3, 100),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 40, 10**6]),
    top_p=st.sampled_from([1.0, 1.0, 0.1, 0.5, 0.9, 0.99999]) | st.floats(1e-6, 1.0),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]) | st.floats(0, 1),
)


@st.composite
def batches(draw_from: st.DrawFn) -> tuple[np.ndarray, list[Choice]]:
    choices = draw_from(st.lists(CHOICES, min_size=1, max_size=6))
    vocab_size = draw_from(st.integers(1, 90))
    random = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    spread = draw_from(st.sampled_from([0.0, 1.0, 4.0, 30.0]))
    logits = random.standard_normal((len(choices), vocab_size)).astype(np.float32) * spread
    if draw_from(st.booleans()):
        logits = np.round(logits * 2) / 2  # ties
    for odd in draw_from(st.lists(st.sampled_from([-INF, -INF, NAN, INF]), max_size=3)):
        logits[random.integers(len(choices)), random.integers(vocab_size)] = odd
    return logits.astype(np.float32), choices


@settings(deadline=None, max_examples=150)
@given(batches())
def test_the_fast_path_draws_the_oracles_tokens(batch: tuple[np.ndarray, list[Choice]]) -> None:
    logits, choices = batch
    expected = [sampling_reference.draw(*pair) for pair in zip(logits, choices, strict=True)]
    assert draw_all(logits, choices) == expected


@pytest.mark.parametrize("limits", [{}, {"top_p": 0.9}, {"min_p": 0.001}, {"top_k": 3000}])
@pytest.mark.parametrize("spread", [1.5, 30.0])
def test_a_large_vocabulary_draws_the_oracles_tokens(limits: dict, spread: float) -> None:
    # Beyond 2**15 tokens rows are told apart by how many tokens can win: 30.0 leaves few.
    logits = np.random.default_rng(3).standard_normal((2, 33001)).astype(np.float32) * spread
    choices = [Choice(seed=5, position=9, candidate=candidate, **limits) for candidate in (0, 1)]
    expected = [sampling_reference.draw(*pair) for pair in zip(logits, choices, strict=True)]
    assert draw_all(logits, choices) == expected


def test_a_rows_token_does_not_depend_on_its_batch() -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((40, 1200)).astype(np.float32) * 3
    limits = [{}, {"top_k": 50, "top_p": 0.95}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 7}]
    choices = [
        Choice(seed=i * 977, position=i, candidate=i % 3, **limits[i % 5]) for i in range(40)
    ]
    alone = [draw_all(logits[i : i + 1], choices[i : i + 1])[0] for i in range(40)]
    assert len(set(alone)) > 20
    for _ in range(8):
        some = random.permutation(40)[: random.integers(2, 41)]
        together = draw_all(logits[some], [choices[i] for i in some])
        assert together == [alone[i] for i in some]


@pytest.mark.parametrize(
    "limits",
    [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probability_says(limits: dict) -> None:
    values = row(1.0, 0.2, -0.7, 1.5, -3.0, 0.0, 0.9)
    draws = 6000
    choice = Choice(seed=42, position=0, candidate=0, **limits)
    choices = [replace(choice, position=position) for position in range(draws)]
    counts = np.bincount(draw_all(np.tile(values, (draws, 1)), choices), minlength=len(values))
    scaled = (values.astype(np.float64) - 1.5) / choice.temperature
    ids = sampling_reference.kept(scaled.astype(np.float32), choice)
    expected = np.zeros(len(values))
    expected[ids] = np.exp(scaled[ids]) / np.exp(scaled[ids]).sum() * draws
    assert counts[expected == 0].sum() == 0
    likely = expected > 0
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    # 22.5 is exceeded by one in a thousand at 6 degrees of freedom; seed and positions are fixed.
    assert chi_square < 22.5


def test_every_seed_and_candidate_draws_for_itself() -> None:
    logits = np.zeros((64, 5000), np.float32)
    seeds = draw_all(logits, [Choice(seed, 0, 0) for seed in range(64)])
    high_seeds = draw_all(logits, [Choice(seed << 32, 0, 0) for seed in range(1, 65)])
    candidates = draw_all(logits, [Choice(0, 0, candidate) for candidate in range(64)])
    assert len(set(seeds) | set(high_seeds) | set(candidates)) > 180


@pytest.mark.parametrize("limits", [{}, {"top_k": 2}], ids=str)
def test_of_equal_scores_the_lowest_id_wins(limits: dict) -> None:
    # Among so many words some are equal; two tokens with such words and equal logits tie.
    words = row_words(Counters(*np.zeros((3, 1), np.uint64)), 200_000)[0]
    order = np.argsort(words, kind="stable")
    twins = np.flatnonzero(np.diff(words[order]) == 0)
    low, high = order[twins[0]], order[twins[0] + 1]
    logits = np.full((1, 200_000), -INF, np.float32)
    logits[0, [low, high]] = 1.0
    assert low < high
    assert draw_all(logits, [Choice(0, 0, 0, **limits)]) == [low]


@pytest.mark.parametrize("temperature", [1e-38, 1e-6, 0.01])
def test_a_low_temperature_takes_the_likeliest(temperature: float) -> None:
    values = row(0.5, 3.0, 2.0, -1.0)
    choices = [Choice(seed, 0, 0, temperature=temperature) for seed in range(30)]
    assert set(draw_all(np.tile(values, (30, 1)), choices)) == {1}


def test_top_k_keeps_the_lowest_ids_among_equals() -> None:
    values = row(1, 3, 2, 2, 2, 0)
    assert kept(values, top_k=1) == [1]
    assert kept(values, top_k=2) == [1, 2]
    assert kept(values, top_k=3) == [1, 2, 3]
    assert kept(values, top_k=5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("top_k", [0, 6, 7, 2**32 - 1])
def test_top_k_of_the_vocabulary_or_zero_keeps_all(top_k: int) -> None:
    assert kept(row(1, 3, 2, 2, 2, 0), top_k=top_k) == [0, 1, 2, 3, 4, 5]


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    values = np.log(row(0.1, 0.5, 0.25, 0.15))
    assert kept(values, top_p=0.01) == [1]
    assert kept(values, top_p=0.49) == [1]
    assert kept(values, top_p=0.51) == [1, 2]
    assert kept(values, top_p=0.76) == [1, 2, 3]
    assert kept(values, top_p=0.91) == [0, 1, 2, 3]
    assert kept(values, top_p=1.0) == [0, 1, 2, 3]


def test_top_p_stops_where_it_is_reached_exactly_and_takes_low_ids_first() -> None:
    assert kept(row(0, 0, 0, 0), top_p=0.5) == [0, 1]
    assert kept(row(0, 0, 0, 0), top_p=0.500001) == [0, 1, 2]
    assert kept(np.zeros(3000, np.float32), top_p=0.5) == list(range(1500))


def test_top_p_counts_what_top_k_left() -> None:
    values = np.log(row(0.4, 0.3, 0.2, 0.1))
    # Of 0.4 and 0.3 the first has 0.57.
    assert kept(values, top_k=2, top_p=0.5) == [0]
    assert kept(values, top_p=0.5) == [0, 1]


def test_min_p_is_relative_to_the_likeliest_and_comes_last() -> None:
    values = np.log(row(0.4, 0.3, 0.2, 0.1))
    assert kept(values, min_p=0.6) == [0, 1]
    assert kept(values, min_p=0.45) == [0, 1, 2]
    assert kept(values, min_p=1.0) == [0]
    assert kept(values, top_k=3, min_p=0.2) == [0, 1, 2]
    # Were min-p first, 0.4 alone would be 0.57 of what is left and top-p would stop there.
    assert kept(values, top_p=0.55, min_p=0.6) == [0, 1]


def test_a_single_token_is_always_drawn() -> None:
    limits = [{}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}]
    assert (
        draw_all(np.full((4, 1), -7, np.float32), [Choice(1, 2, 3, **x) for x in limits]) == [0] * 4
    )


@pytest.mark.parametrize("limits", [{}, {"top_k": 2}, {"top_p": 0.7}, {"min_p": 0.3}], ids=str)
def test_odd_logits_do_not_disturb_a_draw(limits: dict) -> None:
    choices = [Choice(seed, 0, 0, **limits) for seed in range(40)]

    def drawn(*values: float) -> set[int]:
        return set(draw_all(np.tile(row(*values), (40, 1)), choices))

    assert drawn(NAN, NAN, NAN) == {0}
    assert drawn(-INF, -INF, -INF) == {0}
    assert drawn(NAN, 1.0, -INF) == {1}
    assert drawn(5.0, INF, NAN, 4.0) == {1}
    assert drawn(0.0, 0.0, NAN) <= {0, 1}
    assert drawn(-3e38, 3e38, -3e38) == {1}


def test_infinite_logits_share_the_draw() -> None:
    choices = [Choice(seed, 0, 0) for seed in range(40)]
    assert set(draw_all(np.tile(row(9, INF, 2, INF), (40, 1)), choices)) == {1, 3}


def test_argmax_takes_the_lowest_id_and_passes_over_nan() -> None:
    logits = np.array([[1, 2, 2], [NAN, 0, 1], [NAN, NAN, NAN], [-INF, -INF, -INF], [0, INF, NAN]])
    assert argmax(logits.astype(np.float32)).tolist() == [1, 2, 0, 0, 1]


def test_the_likeliest_are_ordered_by_value_then_id() -> None:
    values = row(1, 4, 4, 2, -INF)
    assert likeliest(values, 1).tolist() == [1]
    assert likeliest(values, 3).tolist() == [1, 2, 3]
    assert likeliest(values, 9).tolist() == [1, 2, 3, 0, 4]


@pytest.mark.parametrize(
    ("penalties", "expected"),
    [
        # repetition, presence, frequency
        ((2.0, 0.0, 0.0), [2.0, -2.0, 1.5, 0.5]),
        ((0.5, 0.0, 0.0), [8.0, -0.5, 6.0, 0.5]),
        ((1.0, 1.5, 0.0), [4.0, -2.5, 1.5, 0.5]),
        ((1.0, 0.0, 0.25), [4.0, -1.5, 2.75, 0.5]),
        ((1.0, 0.0, -1.0), [4.0, 1.0, 4.0, 0.5]),
        ((2.0, 1.0, 0.25), [2.0, -3.5, 0.25, 0.5]),
    ],
    ids=str,
)
def test_penalties_change_logits_by_hand_computed_amounts(
    penalties: tuple[float, float, float], expected: list[float]
) -> None:
    logits = row(4.0, -1.0, 3.0, 0.5)
    prompt, output = [0, 1], [1, 2, 1]
    adjusted = sampling_reference.adjust(logits, {}, prompt, output, penalties)
    assert adjusted.tolist() == expected
    penalise(logits, np.array([0, 1, 2]), np.array([0, 2, 1], np.int32), *penalties)
    assert logits.tolist() == expected


def test_penalties_are_the_oracles() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal(50).astype(np.float32) * 4
    prompt, output = random.integers(0, 50, 20), random.integers(0, 50, 30)
    expected = sampling_reference.adjust(
        logits, {}, prompt.tolist(), output.tolist(), (1.3, 0.4, -0.2)
    )
    ids = np.unique(np.concatenate([prompt, output]))
    counts = np.bincount(output, minlength=50).astype(np.int32)[ids]
    penalise(logits, ids, counts, 1.3, 0.4, -0.2)
    assert logits.tolist() == expected.tolist()


def test_log_probabilities_of_rows_with_infinite_and_nan_logits() -> None:
    logits = np.array([[0, -INF, 0], [NAN, 0, 1], [INF, 0, 0]], np.float32)
    chosen, likely = log_probabilities(logits, np.array([1, 1, 1]), [2, 3, 0])
    assert chosen[0] == -INF
    assert np.isnan(chosen[1])
    assert likely[0][0].tolist() == [0, 2]
    np.testing.assert_allclose(likely[0][1], np.log([0.5, 0.5]), rtol=1e-6)
    assert likely[1][0].tolist() == [2, 1, 0]
    assert len(likely[2][0]) == 0
