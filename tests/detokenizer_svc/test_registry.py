"""Rows reach whoever registered their handle and attempt last, and nobody else."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from support.tiny_tokenizers import byte_level

from detokenizer_svc.candidate import Candidate
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.registry import Registry
from detokenizer_svc.request import Request
from protos import generation_pb2, model_pb2
from protos.detokenizer_pb2 import Delivered, Register
from protos.token_frame import ALTERNATIVE, LENGTH, PROMPT, ROW, TokenFrame

TOKENIZER = byte_level()
SPELLING = Vocabulary(TOKENIZER)
HANDLE = 2**64 - 1
NO_PROMPT = 2**32 - 1

Row = tuple[int, int, int, int, float, int, int, int]


class Listener:
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.touched: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.candidates: dict[tuple[int, int], Candidate] = {}

    def touch(self, request: Request, candidate: Candidate) -> None:
        self.touched.append((request.handle, candidate.index))
        self.candidates[request.handle, candidate.index] = candidate

    def forget(self, request: Request) -> None:
        self.forgotten.append(request.attempt)


def frame(*rows: Row, alternatives: Sequence[tuple[int, float]] = ()) -> TokenFrame:
    return TokenFrame(
        np.array(list(rows), dtype=ROW), np.array(list(alternatives), dtype=ALTERNATIVE)
    )


def row(
    position: int,
    token: int = 9,
    *,
    handle: int = HANDLE,
    attempt: int = 1,
    candidate: int = 0,
    flags: int = 0,
    alternatives: int = 0,
) -> Row:
    return handle, attempt, position, token, -0.5, candidate, flags, alternatives


def register(handle: int = HANDLE, attempt: int = 1, candidates: int = 1, **fields) -> Register:
    return Register(handle=handle, attempt=attempt, candidates=candidates, **fields)


def delivered(*ids: int, candidate: int = 0, finished: bool = False) -> Delivered:
    return Delivered(candidate=candidate, ids=array("i", ids).tobytes(), finished=finished)


def replay(position: int, *, attempt: int = 1, candidate: int = 0, prompt: int = NO_PROMPT):
    return model_pb2.Replay(
        handle=HANDLE,
        attempt=attempt,
        candidate=candidate,
        position=position,
        prompt_position=prompt,
    )


def test_rows_touch_their_candidate() -> None:
    registry, listener = Registry(SPELLING), Listener()
    assert registry.register(register(candidates=2), listener) == []
    registry.process(frame(row(0), row(0, candidate=1), row(1)))
    assert listener.touched == [(HANDLE, 0), (HANDLE, 1), (HANDLE, 0)]
    assert registry.fenced_rows == 0


def test_rows_that_nobody_wants_are_fenced() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(attempt=2), listener)
    registry.process(
        frame(row(0, handle=1), row(0), row(0, attempt=3), row(0, attempt=2, candidate=1))
    )
    assert (listener.touched, registry.fenced_rows) == ([], 4)


def test_one_requests_rows_do_not_disturb_anothers_alternatives() -> None:
    registry, listener = Registry(SPELLING), Listener()
    output = generation_pb2.OutputOptions(logprobs=2)
    registry.register(register(output=output), listener)
    alternatives = [(1, -1.0), (2, -2.0), (3, -3.0), (4, -4.0)]
    rows = [row(0, handle=5, alternatives=1), row(0, alternatives=2), row(1, alternatives=1)]
    registry.process(frame(*rows, alternatives=alternatives))
    scores = listener.candidates[HANDLE, 0].unsent.scores
    assert [score[2] for score in scores] == [alternatives[1:3], alternatives[3:]]


def test_a_hole_is_asked_for_once() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(), listener)
    assert registry.process(frame(row(0), row(2), row(3))) == [replay(1)]
    assert registry.process(frame(row(4))) == []
    assert registry.process(frame(row(1), row(2), row(3), row(4))) == []
    assert listener.candidates[HANDLE, 0].expected == 5


def test_a_gap_is_asked_for_again_even_if_it_was_before() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(), listener)
    registry.process(frame(row(0), row(2)))
    missing = model_pb2.Missing(handle=HANDLE, attempt=1, candidate=0)
    strangers = [
        model_pb2.Missing(handle=7, attempt=1),
        model_pb2.Missing(handle=HANDLE, attempt=2),
        model_pb2.Missing(handle=HANDLE, attempt=1, candidate=1),
    ]
    assert registry.missing(model_pb2.Gap(requests=[missing, *strangers])) == [replay(1)]


def test_a_lost_link_asks_for_all_that_is_unfinished() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(candidates=3), listener)
    registry.process(frame(row(0), row(0, candidate=1, flags=LENGTH)))
    assert registry.all_missing() == [replay(1), replay(0, candidate=2)]


def test_a_later_attempt_goes_on_after_what_was_delivered() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(candidates=2), listener)
    registry.process(frame(row(0, 11), row(1, 12), row(2, 13)))
    later = register(
        attempt=2,
        candidates=2,
        delivered=[delivered(11, 12), delivered(candidate=1, finished=True)],
    )
    assert registry.register(later, listener) == [replay(2, attempt=2)]
    assert listener.forgotten == [1]
    registry.process(frame(row(3, 14), row(1, 99, attempt=2), row(2, 15, attempt=2)))
    assert listener.candidates[HANDLE, 0].unsent.ids == [15]


def test_an_earlier_attempt_changes_nothing() -> None:
    registry, first, second = Registry(SPELLING), Listener(), Listener()
    registry.register(register(attempt=2), first)
    assert registry.register(register(attempt=1, delivered=[delivered()]), second) == []
    registry.process(frame(row(0, attempt=2)))
    assert (first.touched, second.touched) == ([(HANDLE, 0)], [])


def test_a_new_request_asks_for_nothing_and_a_returning_one_for_all() -> None:
    registry = Registry(SPELLING)
    assert registry.register(register(handle=3), Listener()) == []
    assert registry.register(register(delivered=[delivered()]), Listener()) == [replay(0)]


def test_text_that_delivered_ids_give_beyond_what_was_delivered_is_told_at_once() -> None:
    registry, listener = Registry(SPELLING), Listener()
    ids = TOKENIZER.encode("the dog", add_special_tokens=False).ids
    entry = Delivered(ids=array("i", ids).tobytes(), text_length=2)
    tail = TOKENIZER.encode("so", add_special_tokens=False).ids
    registry.register(register(delivered=[entry], prompt_tail=tail), listener)
    assert listener.touched == [(HANDLE, 0)]
    assert listener.candidates[HANDLE, 0].unsent.text == ["e dog"]


def test_the_last_to_register_is_told_and_the_first_can_take_nothing_back() -> None:
    registry, old, new = Registry(SPELLING), Listener(), Listener()
    registry.register(register(), old)
    registry.register(register(delivered=[delivered()]), new)
    registry.forget_all(old)
    registry.forget(HANDLE, old)
    registry.process(frame(row(0)))
    assert (old.touched, new.touched) == ([], [(HANDLE, 0)])


def test_what_is_forgotten_is_told_no_more() -> None:
    registry, listener = Registry(SPELLING), Listener()
    for handle in (1, 2, 3):
        registry.register(register(handle=handle), listener)
    registry.forget(1, listener)
    registry.forget(9, listener)
    assert len(registry) == 2
    registry.forget_all(listener)
    registry.process(frame(row(0, handle=1), row(0, handle=2)))
    assert (len(registry), listener.touched, registry.fenced_rows) == (0, [], 2)


def test_scores_of_the_prompt_are_taken_in_order_where_wanted() -> None:
    registry, listener = Registry(SPELLING), Listener()
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    registry.register(register(output=output), listener)
    first = frame(row(0, 4, flags=PROMPT), row(2, 6, flags=PROMPT), row(3, 7, flags=PROMPT))
    assert registry.process(first) == [replay(0, prompt=1)]
    assert registry.process(frame(row(0, flags=PROMPT), row(1, 5, flags=PROMPT))) == []
    unsent = listener.candidates[HANDLE, 0].unsent
    assert (unsent.prompt_position, [score[0] for score in unsent.prompt_scores]) == (0, [4, 5])


def test_a_registration_renewed_is_told_the_scores_of_the_prompt_from_the_first_again() -> None:
    registry, listener = Registry(SPELLING), Listener()
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    scores = frame(*(row(place, 4 + place, flags=PROMPT) for place in range(3)))
    registry.register(register(output=output), listener)
    registry.process(scores)
    assert registry.register(register(output=output), listener) == [replay(0, prompt=0)]
    registry.process(scores)
    unsent = listener.candidates[HANDLE, 0].unsent
    assert (unsent.prompt_position, [score[0] for score in unsent.prompt_scores]) == (0, [4, 5, 6])


def test_a_registration_renewed_without_wish_for_scores_of_the_prompt_is_told_none() -> None:
    registry, listener = Registry(SPELLING), Listener()
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    registry.register(register(output=output), listener)
    registry.register(register(delivered=[delivered()]), listener)
    registry.process(frame(row(0, flags=PROMPT), row(0, 9)))
    unsent = listener.candidates[HANDLE, 0].unsent
    assert (unsent.prompt_scores, unsent.ids) == ([], [9])


def test_scores_of_the_prompt_that_nobody_wants_are_dropped() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(), listener)
    assert registry.process(frame(row(7, flags=PROMPT))) == []
    assert listener.touched == []


def test_a_finished_candidate_still_asks_for_scores_of_the_prompt() -> None:
    registry = Registry(SPELLING)
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    registry.register(register(output=output), Listener())
    registry.process(frame(row(0, flags=LENGTH)))
    gap = model_pb2.Gap(requests=[model_pb2.Missing(handle=HANDLE, attempt=1)])
    assert registry.missing(gap) == [replay(1, prompt=0)]


def test_rows_of_the_prompt_are_asked_for_only_where_they_are_wanted() -> None:
    registry = Registry(SPELLING)
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    registry.register(register(output=output), Listener())
    asked = registry.register(register(delivered=[delivered()]), Listener())
    assert asked == [replay(0, prompt=NO_PROMPT)]


def test_a_request_without_options_leaves_special_tokens_out() -> None:
    registry, listener = Registry(SPELLING), Listener()
    registry.register(register(handle=1), listener)
    shown = generation_pb2.OutputOptions(skip_special_tokens=False)
    registry.register(register(handle=2, output=shown), listener)
    eos = TOKENIZER.token_to_id("</s>")
    registry.process(frame(row(0, eos, handle=1), row(0, eos, handle=2)))
    assert [listener.candidates[handle, 0].unsent.text for handle in (1, 2)] == [[], ["</s>"]]
