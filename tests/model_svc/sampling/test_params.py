"""Wishes of a request for its draws, and the part of its history that a draw depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_svc.sampling.params import BadEndings, SampleInput, SamplingParams, TokenHistory

GREEDY = {"temperature": 0.0}


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


@pytest.mark.parametrize(
    ("choices", "plain"),
    [
        ({}, True),
        ({"temperature": 1e-40}, True),
        ({"top_p": 0.5, "top_k": 3, "min_p": 0.1}, True),
        ({"min_tokens": 3}, True),
        ({"suppressed_ids": (1,)}, True),
        ({"min_tokens": 3, "suppressed_ids": (1,)}, False),
        ({"temperature": 0.7}, False),
        ({"logprobs": 0}, False),
        ({"logit_bias": {1: 2.0}}, False),
        ({"bad_sequences": ((1,),)}, False),
        ({"bad_sequences": ((1, 2),)}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": 0.1}, False),
    ],
)
def test_a_request_is_plain_that_only_ever_wants_the_likeliest(
    choices: dict[str, Any], plain: bool
) -> None:
    assert SamplingParams(**{"seed": 1, **GREEDY, **choices}).plain is plain


def test_history_goes_on_with_what_is_appended() -> None:
    grown = TokenHistory(6, ids(5, 1), ids(2))
    for token in (2, 3, 1):
        grown.append(token)
    whole = TokenHistory(6, ids(5, 1), ids(2, 2, 3, 1))
    for history in (grown, whole):
        tokens, counts = (part.tolist() for part in history.occurrences())
        assert dict(zip(tokens, counts, strict=True)) == {1: 1, 2: 2, 3: 1, 5: 0}


def test_history_has_room_for_every_id() -> None:
    history = TokenHistory(500, ids(), ids())
    for token in [*range(500), 7]:
        history.append(token)
    tokens, counts = history.occurrences()
    assert sorted(tokens.tolist()) == list(range(500))
    assert counts.sum() == 501


@pytest.mark.parametrize(
    ("choices", "needed"),
    [
        ({}, False),
        ({"logit_bias": {1: 1.0}, "min_tokens": 3}, False),
        ({"repetition_penalty": 1.1}, True),
        ({"presence_penalty": -0.1}, True),
        ({"frequency_penalty": 0.1}, True),
    ],
)
def test_only_penalties_need_a_history(choices: dict[str, Any], needed: bool) -> None:
    assert SamplingParams(seed=0, **choices).needs_history is needed


def banned(sequences: Sequence[Sequence[int]], known: Sequence[int]) -> set[int]:
    history = ids(*known)
    found = BadEndings(sequences).after(len(known), lambda start, n: history[start : start + n])
    assert len(set(found)) == len(found)
    return set(found)


def test_the_last_id_of_a_bad_sequence_is_banned_where_the_others_precede_it() -> None:
    sequences = [(1, 2), (3, 1, 4), (1, 2), (1, 5), (2, 6), (0, 3, 1, 7)]
    assert banned(sequences, [9, 1]) == {2, 5}
    assert banned(sequences, [3, 1]) == {2, 4, 5}
    assert banned(sequences, [0, 3, 1]) == {2, 4, 5, 7}
    assert banned(sequences, [1, 9]) == set()
    assert banned([(1, 1, 1)], [1]) == set()
    assert banned([(1, 1, 1)], [1, 1]) == {1}


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=5), min_size=1, max_size=8),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
)
def test_what_is_banned_is_what_a_search_of_the_text_finds(
    sequences: list[list[int]], known: list[int]
) -> None:
    completed = {token for token in range(3) for s in sequences if [*known, token][-len(s) :] == s}
    assert banned(sequences, known) == completed


def test_a_bad_sequence_of_one_id_is_a_bias() -> None:
    spec = SamplingParams(seed=0, logit_bias={1: 2.0, 3: 4.0}, bad_sequences=((1,), (5,)))
    assert dict(zip(*spec.bias, strict=True)) == {1: -np.inf, 3: 4.0, 5: -np.inf}
    assert spec.bad_endings is None


def test_a_ban_takes_the_place_of_a_bias() -> None:
    spec = SamplingParams(seed=0, logit_bias={1: 2.0, 3: 4.0})
    draw = SampleInput(spec, 0, 0, None, (3, 6))
    assert dict(zip(*draw.bias, strict=True)) == {1: 2.0, 3: -np.inf, 6: -np.inf}
    assert draw.edits
    assert dict(zip(*draw._replace(banned=()).bias, strict=True)) == {1: 2.0, 3: 4.0}


@pytest.mark.parametrize(
    ("choices", "position", "edits"),
    [
        ({}, 0, False),
        ({"logit_bias": {1: 1.0}}, 9, True),
        ({"bad_sequences": ((1,),)}, 9, True),
        ({"bad_sequences": ((1, 2),)}, 9, False),
        ({"min_tokens": 3, "suppressed_ids": (1,)}, 2, True),
        ({"min_tokens": 3, "suppressed_ids": (1,)}, 3, False),
    ],
)
def test_only_what_changes_the_logits_edits_them(
    choices: dict[str, Any], position: int, edits: bool
) -> None:
    assert SampleInput(SamplingParams(seed=0, **choices), position, 0, None).edits is edits
