from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.reference import sampling as sampling_reference
from kernels.reference.sampling import Choice
from model_svc.sampling.cpu_sampler import Drawn, Sampler
from model_svc.sampling.draws import Draws
from model_svc.sampling.params import SampleInput, SamplingParams, TokenHistory

GREEDY = {"temperature": 0.0}
MOST = float(np.finfo(np.float32).max)
LEAST = 1e-45  # what float32 calls it is its smallest number above 0


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def draw_of(
    position: int = 0,
    candidate: int = 0,
    history: TokenHistory | None = None,
    **choices: Any,
) -> SampleInput:
    return SampleInput(SamplingParams(**{"seed": 1, **choices}), position, candidate, history)


def sample(logits: list[float], **choices: Any) -> int:
    return int(
        Sampler(len(logits)).draw(torch.tensor([logits]), Draws.of([draw_of(**choices)])).tokens[0]
    )


def random_logits(rows: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def row_of(drawn: Drawn, i: int) -> tuple[int, bytes, bytes]:
    return (
        int(drawn.tokens[i]),
        drawn.logprobs[i].tobytes(),
        drawn.alternatives[i].tobytes() if drawn.alternatives else b"",
    )


BIASES = [-100.0, 2.5, MOST, -MOST, 3e38, -math.inf]


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """All that one row is drawn with, but its logits, for a vocabulary of 40."""
    token = st.integers(0, 39)
    bad_sequence = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)
    return {
        "prompt": draw(st.lists(token, min_size=1, max_size=8)),
        "output": draw(st.lists(token, max_size=8)),
        "candidate": draw(st.integers(0, 15)),
        "choices": {
            "seed": draw(st.integers(0, 2**64 - 1)),
            "temperature": draw(st.sampled_from([0.0, 0.6, 1.0, 2.0, LEAST, 1.2e-38, MOST])),
            "top_k": draw(st.sampled_from([0, 1, 6, 2**32 - 1])),
            "top_p": draw(st.sampled_from([1.0, 0.7, LEAST])),
            "min_p": draw(st.sampled_from([0.0, 0.1, LEAST, 1.0])),
            "repetition_penalty": draw(st.sampled_from([1.0, 1.5, 0.5, LEAST, 1e-38, MOST])),
            "presence_penalty": draw(st.sampled_from([0.0, 1.0, MOST, -MOST])),
            "frequency_penalty": draw(st.sampled_from([0.0, -0.7, MOST, -MOST])),
            "logit_bias": draw(st.dictionaries(token, st.sampled_from(BIASES), max_size=40)),
            "bad_sequences": draw(st.lists(bad_sequence, max_size=6).map(tuple)),
            "logprobs": draw(st.sampled_from([None, 0, 3])),
            "min_tokens": draw(st.sampled_from([0, 4])),
            "suppressed_ids": draw(st.lists(token, max_size=3).map(tuple)),
        },
    }


def draw_for(request: dict[str, Any]) -> SampleInput:
    history = TokenHistory(40, ids(*request["prompt"]), ids(*request["output"]))
    position = len(request["output"])
    draw = draw_of(position, request["candidate"], history, **request["choices"])
    if draw.spec.bad_endings is None:
        return draw
    known = ids(*request["prompt"], *request["output"])
    banned = draw.spec.bad_endings.after(len(known), lambda start, n: known[start : start + n])
    return draw._replace(banned=banned)


def banned_in(request: dict[str, Any]) -> dict[int, float]:
    known = (*request["prompt"], *request["output"])
    return {
        last: -math.inf
        for *start, last in request["choices"]["bad_sequences"]
        if known[len(known) - len(start) :] == tuple(start)
    }


def expected_token(logits: np.ndarray, request: dict[str, Any]) -> int:
    spec = SamplingParams(**request["choices"])
    penalties = (spec.repetition_penalty, spec.presence_penalty, spec.frequency_penalty)
    position = len(request["output"])
    bias = {**spec.logit_bias, **banned_in(request)}
    row = sampling_reference.adjust(logits, bias, request["prompt"], request["output"], penalties)
    if position < spec.min_tokens:
        row[list(spec.suppressed_ids)] = -np.inf
    choice = Choice(
        spec.seed,
        position,
        request["candidate"],
        spec.temperature,
        spec.top_k,
        spec.top_p,
        spec.min_p,
    )
    return sampling_reference.draw(row, choice)


@given(
    st.lists(requests(), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([1.0, 1.0, 1e-40, 1e38]),
    st.lists(st.sampled_from([math.nan, math.inf, -math.inf, MOST, -MOST]), max_size=3),
)
def test_every_row_gets_the_oracles_token(
    batch: list[dict[str, Any]], seed: int, spread: float, odd: list[float]
) -> None:
    logits = random_logits(len(batch), 40, seed) * spread
    logits[0, : len(odd)] = torch.tensor(odd)
    before = logits.clone()
    drawn = Sampler(40).draw(logits, Draws.of([draw_for(request) for request in batch]))
    pairs = zip(logits.numpy(), batch, strict=True)
    assert drawn.tokens.tolist() == [expected_token(*pair) for pair in pairs]
    assert torch.equal(logits.view(torch.int32), before.view(torch.int32))


@given(st.lists(requests(), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_a_row_is_the_same_alone_and_in_any_order_of_any_batch(
    batch: list[dict[str, Any]], random: Any
) -> None:
    logits = random_logits(len(batch), 40)
    sampler = Sampler(40)
    draws = [draw_for(request) for request in batch]
    alone = [
        row_of(sampler.draw(logits[i : i + 1], Draws.of(draws[i : i + 1])), 0)
        for i in range(len(draws))
    ]
    order = random.sample(range(len(draws)), random.randint(1, len(draws)))
    together = sampler.draw(logits[order], Draws.of([draws[i] for i in order]))
    assert [row_of(together, place) for place in range(len(order))] == [alone[i] for i in order]


def test_many_rows_of_a_large_vocabulary_are_drawn_as_each_alone() -> None:
    vocab_size = 2**20  # four rows are drawn at a time
    logits = random_logits(6, vocab_size)
    draws = [draw_of(position=i, logprobs=1, temperature=0.3 + i) for i in range(6)]
    sampler = Sampler(vocab_size)
    drawn = sampler.draw(logits, Draws.of(draws))
    for i in (0, 3, 4, 5):
        assert row_of(drawn, i) == row_of(sampler.draw(logits[i : i + 1], Draws.of([draws[i]])), 0)


def test_no_rows_give_no_tokens() -> None:
    drawn = Sampler(7).draw(torch.empty(0, 7), Draws.of([]))
    assert drawn.tokens.shape == drawn.logprobs.shape == (0,)
    assert drawn.alternatives == ()


def test_greedy_takes_the_likeliest_and_the_lowest_id_among_equals() -> None:
    assert sample([0.0, 2.0, 1.0, 2.0], **GREEDY) == 1
    assert sample([-1.0, -1.0], **GREEDY, top_p=0.1, min_p=0.5, top_k=1) == 0
    assert sample([0.0, 2.0], temperature=1e-40) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_other_dtypes_are_drawn_as_their_float32_values(dtype: torch.dtype) -> None:
    logits = random_logits(5, 300).to(dtype)
    draws = [draw_of(position=i) for i in range(5)]
    sampler = Sampler(300)
    assert (
        sampler.draw(logits, Draws.of(draws)).tokens
        == sampler.draw(logits.float(), Draws.of(draws)).tokens
    ).all()


def test_strided_logits_are_drawn_as_contiguous_ones() -> None:
    wide = random_logits(5, 400)
    draws = [draw_of(position=i) for i in range(5)]
    sampler = Sampler(300)
    strided = sampler.draw(wide[:, 50:350], Draws.of(draws)).tokens
    assert (strided == sampler.draw(wide[:, 50:350].contiguous(), Draws.of(draws)).tokens).all()


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(1, 4\): expected \[1, 5\]"):
        Sampler(5).draw(torch.zeros(1, 4), Draws.of([draw_of()]))
    with pytest.raises(ValueError, match=r"logits \(2, 5\): expected \[1, 5\]"):
        Sampler(5).score(torch.zeros(2, 5), ids(0), 0)


def test_candidates_draw_apart_from_each_other() -> None:
    logits = torch.zeros(16, 4096)
    drawn = Sampler(4096).draw(logits, Draws.of([draw_of(candidate=i) for i in range(16)]))
    assert len(set(drawn.tokens.tolist())) >= 15


def test_a_seed_beyond_64_bits_counts_by_its_low_64() -> None:
    logits = [0.0] * 500
    assert sample(logits, seed=2**64 + 3) == sample(logits, seed=3) != sample(logits, seed=2**63)


def test_logit_bias_is_added() -> None:
    assert sample([1.0, 2.0, 3.0], **GREEDY, logit_bias={0: 2.5}) == 0
    assert sample([1.0, 2.0, 3.0], **GREEDY, logit_bias={2: -math.inf}) == 1


@pytest.mark.parametrize("limits", [{}, GREEDY, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 1.0}])
@pytest.mark.parametrize(
    "others",
    [
        {"repetition_penalty": MOST, "logit_bias": {1: -MOST}},
        {"presence_penalty": MOST, "frequency_penalty": MOST},
        {"presence_penalty": -MOST, "frequency_penalty": -MOST, "repetition_penalty": LEAST},
    ],
)
def test_a_banned_token_is_not_drawn_while_another_is_left(
    limits: dict[str, Any], others: dict[str, Any]
) -> None:
    history = TokenHistory(3, ids(0, 1, 2), ids(0, 1, 2, 1))
    bias = {**others.get("logit_bias", {}), 0: -math.inf, 2: -math.inf}
    choices = {**limits, **others, "logit_bias": bias, "history": history}
    assert {sample([9.0, -9.0, 9.0], **choices, seed=seed) for seed in range(30)} == {1}


@pytest.mark.parametrize("limits", [{}, GREEDY, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_where_every_token_is_banned_id_0_is_drawn(limits: dict[str, Any]) -> None:
    choices = {**limits, "logit_bias": dict.fromkeys(range(3), -math.inf), "logprobs": 3}
    drawn = Sampler(3).draw(torch.tensor([[1.0, 2.0, 3.0]]), Draws.of([draw_of(**choices)]))
    assert drawn.tokens.tolist() == [0]
    assert drawn.logprobs[0] == pytest.approx(-2.407606, abs=1e-5)
    assert np.isfinite(drawn.alternatives[0]["logprob"]).all()


def test_a_bias_beyond_float32_is_its_largest_number() -> None:
    logits = [3e38, 2.0, 3e38, 1.0]
    choices = {"logit_bias": {0: MOST, 1: MOST, 3: -MOST}}
    assert sample(logits, **GREEDY, **choices) == 0
    # Both are the largest number now: equally likely.
    assert {sample(logits, **choices, seed=seed) for seed in range(30)} == {0, 1}


def test_what_would_complete_a_bad_sequence_is_not_drawn() -> None:
    spec = SamplingParams(seed=1, **GREEDY, bad_sequences=((3,), (7, 8, 2)), logit_bias={2: 1.0})
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    free, banned = SampleInput(spec, 0, 0, None), SampleInput(spec, 0, 0, None, (2,))
    assert [
        int(Sampler(4).draw(logits, Draws.of([draw])).tokens[0]) for draw in (free, banned)
    ] == [2, 1]


def test_ids_outside_the_vocabulary_mean_nothing() -> None:
    choices = {"logit_bias": {3: 9.0, 2**32 - 1: 9.0, 1: 1.5}, "suppressed_ids": (2, 3, 7)}
    assert sample([1.0, 2.0, 3.0], **GREEDY, min_tokens=1, **choices) == 1


def test_bias_comes_before_penalties() -> None:
    # -1 + 3 is above 0, so the penalty of 2 divides: 1.0, not -1 * 2 + 3.
    history = TokenHistory(2, ids(0), ids())
    choices = {"logit_bias": {0: 3.0}, "repetition_penalty": 2.0, "history": history}
    assert sample([-1.0, 0.99], **GREEDY, **choices) == 0
    assert sample([-1.0, 1.01], **GREEDY, **choices) == 1


def test_stop_ids_are_not_drawn_before_min_tokens() -> None:
    logits = [5.0, 9.0, 1.0, 8.0]
    choices = {"min_tokens": 2, "suppressed_ids": (1, 3)}
    tokens = [sample(logits, **GREEDY, **choices, position=position) for position in range(4)]
    assert tokens == [0, 0, 1, 1]
    drawn = {sample(logits, seed=seed, **choices, position=1) for seed in range(200)}
    assert drawn <= {0, 2}


def test_a_row_whose_tokens_are_all_forbidden_gives_id_0() -> None:
    choices = {"min_tokens": 1, "suppressed_ids": (0, 1)}
    assert sample([1.0, 2.0], **GREEDY, **choices) == 0
    assert sample([1.0, 2.0], **choices) == 0


def test_rows_of_nan_and_overflowing_edits_do_not_end_the_step() -> None:
    history = TokenHistory(3, ids(0, 1, 2), ids(2))
    logits = torch.tensor([[math.nan] * 3, [3e38, -3e38, 0.0], [0.0, 1.0, 2.0]])
    drawn = Sampler(3).draw(
        logits,
        Draws.of(
            [
                draw_of(logprobs=2),
                draw_of(history=history, repetition_penalty=1e-3, logit_bias={0: 3e38}),
                draw_of(**GREEDY, logprobs=1),
            ]
        ),
    )
    assert drawn.tokens.tolist() == [0, 0, 2]
    assert np.isnan(drawn.logprobs[0])
    assert drawn.logprobs[2] == pytest.approx(-0.407606, abs=1e-5)


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = random_logits(4, 500)
    history = TokenHistory(500, ids(1, 2), ids(3))
    choices = {"temperature": 0.5, "top_k": 3, "logit_bias": {7: 50.0}, "repetition_penalty": 1.5}
    draws = [draw_of(i, history=history, **choices, logprobs=5) for i in range(4)]
    drawn = Sampler(500).draw(logits, Draws.of(draws))
    assert drawn.tokens.tolist() == [7] * 4
    expected = torch.log_softmax(logits.double(), dim=-1)
    np.testing.assert_allclose(drawn.logprobs, expected[:, 7], atol=1e-5)
    values, tokens = expected.topk(5)
    for row, records in enumerate(drawn.alternatives):
        assert records["token"].tolist() == tokens[row].tolist()
        np.testing.assert_allclose(records["logprob"], values[row], atol=1e-5)


def test_logprobs_come_only_where_asked_for() -> None:
    draws = [draw_of(), draw_of(logprobs=0), draw_of(logprobs=2), draw_of(logprobs=99)]
    drawn = Sampler(50).draw(random_logits(4, 50), Draws.of(draws))
    assert np.isnan(drawn.logprobs).tolist() == [True, False, False, False]
    assert [len(records) for records in drawn.alternatives] == [0, 0, 2, 50]


def test_alternatives_of_equal_logits_rank_by_id() -> None:
    drawn = Sampler(4).draw(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), Draws.of([draw_of(logprobs=3)]))
    assert drawn.alternatives[0]["token"].tolist() == [1, 0, 2]


def test_given_tokens_are_scored() -> None:
    logits = random_logits(6, 333)
    tokens = ids(0, 332, 5, 5, 100, 7)
    logprobs, alternatives = Sampler(333).score(logits, tokens, 2)
    expected = torch.log_softmax(logits.double(), dim=-1)
    np.testing.assert_allclose(logprobs, expected[range(6), tokens], atol=1e-5)
    assert logprobs.dtype == np.float32
    assert [records["token"].tolist() for records in alternatives] == expected.topk(2)[1].tolist()
    assert [len(records) for records in Sampler(333).score(logits, tokens, 0)[1]] == [0] * 6
