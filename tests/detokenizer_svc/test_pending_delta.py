"""What was not told is told once, whole or in parts."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detokenizer_svc.pending_delta import MOST_POSITIONS, PendingDelta
from protos.detokenizer_pb2 import TextDelta
from protos.generation_pb2 import FINISH_REASON_STOP


def piece(token_id: int) -> bytes:
    return b"t%d" % token_id


def told(unsent: PendingDelta) -> TextDelta:
    delta = TextDelta()
    unsent.move_into(delta, piece)
    return delta


def test_all_is_told_in_one_delta_and_only_once() -> None:
    unsent = PendingDelta(position=5)
    unsent.ids += [7, 8]
    unsent.scores += [(7, -0.5, [(9, -1.0)]), (8, -0.25, ())]
    unsent.text += ["a", "b"]
    unsent.finish, unsent.matched = FINISH_REASON_STOP, "c"
    delta = told(unsent)
    assert (delta.position, list(delta.token_ids), delta.text) == (5, [7, 8], "ab")
    assert (delta.finish_reason, delta.matched_stop) == (FINISH_REASON_STOP, "c")
    assert [(score.token, score.logprob) for score in delta.logprobs] == [
        (b"t7", -0.5),
        (b"t8", -0.25),
    ]
    assert [(top.token_id, top.token, top.logprob) for top in delta.logprobs[0].top] == [
        (9, b"t9", -1.0)
    ]
    assert not unsent
    assert unsent.position == 7
    assert told(unsent) == TextDelta(position=7)


def test_a_stop_token_is_told_even_if_its_id_is_zero() -> None:
    unsent = PendingDelta()
    unsent.finish, unsent.matched = FINISH_REASON_STOP, 0
    assert told(unsent).WhichOneof("matched") == "matched_token_id"


@pytest.mark.parametrize("prompt", [False, True])
def test_too_much_is_told_in_parts_that_end_with_text_and_ending(prompt: bool) -> None:
    count = 2 * MOST_POSITIONS + 1
    unsent = PendingDelta()
    if prompt:
        unsent.prompt_position = 3
        unsent.prompt_scores += [(id_, 0.0, ()) for id_ in range(count)]
    else:
        unsent.ids += range(count)
    unsent.text.append("a")
    unsent.finish = FINISH_REASON_STOP
    parts = []
    while unsent:
        parts.append(told(unsent))
    assert len(parts) == 3
    assert [(part.text, part.finish_reason) for part in parts] == [
        ("", 0),
        ("", 0),
        ("a", FINISH_REASON_STOP),
    ]
    if prompt:
        assert [part.prompt_position for part in parts] == [
            3 + i * MOST_POSITIONS for i in range(3)
        ]
        ids = [score.token_id for part in parts for score in part.prompt_logprobs]
    else:
        assert [part.position for part in parts] == [i * MOST_POSITIONS for i in range(3)]
        ids = [id_ for part in parts for id_ in part.token_ids]
    assert ids == list(range(count))


@given(
    prompt=st.integers(0, 7),
    ids=st.integers(0, 7),
    text=st.booleans(),
    finish=st.booleans(),
    logprobs=st.booleans(),
)
def test_the_last_id_is_told_with_text_and_ending_and_after_the_scores_of_the_prompt(
    prompt: int, ids: int, text: bool, finish: bool, logprobs: bool
) -> None:
    unsent = PendingDelta()
    unsent.prompt_scores += [(id_, 0.0, ()) for id_ in range(prompt)]
    unsent.ids += range(ids)
    unsent.scores += [(id_, 0.0, ()) for id_ in range(ids)] if logprobs else []
    unsent.text += ["a"] if text else []
    unsent.finish = FINISH_REASON_STOP if finish else unsent.finish
    parts = []
    with patch("detokenizer_svc.pending_delta.MOST_POSITIONS", 2):
        while unsent:
            parts.append(told(unsent))

    assert [id_ for part in parts for id_ in part.token_ids] == list(range(ids))
    assert sum(len(part.prompt_logprobs) for part in parts) == prompt
    for part in parts[:-1]:
        assert (part.text, part.finish_reason) == ("", 0)
    for part in parts:
        assert len(part.logprobs) == (len(part.token_ids) if logprobs else 0)
        assert max(len(part.token_ids), len(part.prompt_logprobs)) <= 2
    if ids:
        assert parts[-1].token_ids[-1] == ids - 1
    if parts:
        assert (parts[-1].text, bool(parts[-1].finish_reason)) == ("a" if text else "", finish)
    scored = [place for place, part in enumerate(parts) if part.prompt_logprobs]
    output = [place for place, part in enumerate(parts) if part.token_ids]
    assert not (scored and output) or scored[-1] <= output[0]


@pytest.mark.parametrize("prompt", [False, True])
def test_alternatives_count_towards_what_one_delta_holds(prompt: bool) -> None:
    count, each = 1000, 21
    scores = [(id_, 0.0, [(id_, -1.0)] * (each - 1)) for id_ in range(count)]
    unsent = PendingDelta()
    if prompt:
        unsent.prompt_scores += scores
    else:
        unsent.ids += range(count)
        unsent.scores += scores
    sizes, written = [], 0
    while unsent:
        delta = TextDelta()
        written += unsent.move_into(delta, piece)
        sizes.append(len(delta.prompt_logprobs if prompt else delta.token_ids))
    assert max(sizes) == MOST_POSITIONS // each
    assert (sum(sizes), written) == (count, count * each)
