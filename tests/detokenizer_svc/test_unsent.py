"""What was not told is told once, whole or in parts."""

from __future__ import annotations

import pytest

from detokenizer_svc.unsent import MOST_POSITIONS, Unsent
from protos.detokenizer_pb2 import TextDelta
from protos.generation_pb2 import FINISH_REASON_STOP


def piece(token_id: int) -> bytes:
    return b"t%d" % token_id


def told(unsent: Unsent) -> TextDelta:
    delta = TextDelta()
    unsent.move_into(delta, piece)
    return delta


def test_all_is_told_in_one_delta_and_only_once() -> None:
    unsent = Unsent(position=5)
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
    unsent = Unsent()
    unsent.finish, unsent.matched = FINISH_REASON_STOP, 0
    assert told(unsent).WhichOneof("matched") == "matched_token_id"


@pytest.mark.parametrize("prompt", [False, True])
def test_too_much_is_told_in_parts_that_end_with_text_and_ending(prompt: bool) -> None:
    count = 2 * MOST_POSITIONS + 1
    unsent = Unsent()
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
