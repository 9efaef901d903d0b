"""A request's candidates end where a stop string names a special token that its text leaves out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pytest
from support.tiny_tokenizers import byte_fallback, byte_level, end_of_word, word_piece
from tokenizers import AddedToken

from detokenizer_svc.candidate import Candidate, SpecialCandidate
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.request import Request
from protos.detokenizer_pb2 import Delivered, Register
from protos.generation_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    OutputOptions,
    StopConditions,
)
from protos.token_frame import LENGTH, STOP

TOKENIZER = byte_level()
SPELLING = Vocabulary(TOKENIZER)
USER = TOKENIZER.token_to_id("<|user|>")


class Nobody:
    """An audience that is told nothing."""

    def touch(self, request: Request, candidate: Candidate) -> None: ...

    def forget(self, request: Request) -> None: ...


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def candidate(
    *strings: str,
    spelling: Vocabulary = SPELLING,
    shown: bool = False,
    delivered: Sequence[Delivered] = (),
    **stop: int,
) -> Candidate:
    register = Register(
        candidates=1,
        stop=StopConditions(strings=strings, **stop),
        output=OutputOptions(skip_special_tokens=False) if shown else None,
        delivered=delivered,
    )
    return Request(register, spelling, Nobody()).candidates[0]


def feed(subject: Candidate, ids: Sequence[int], flags: int = 0) -> None:
    for index, id_ in enumerate(ids, subject.expected):
        subject.add_row(index, id_, flags if id_ == ids[-1] else 0, -0.5, ())


def told(subject: Candidate) -> tuple[str, int, str | int | None]:
    return "".join(subject.unsent.text), subject.unsent.finish, subject.unsent.matched


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("<|user|>", "the dog"), ("dog<|user|>", "the "), ("<|user|><|user|>", "the dog")],
)
def test_a_special_token_completes_a_stop_string(stop: str, text: str, shown: bool) -> None:
    subject = candidate(stop, shown=shown)
    feed(subject, [*ids_of("the dog"), USER, USER, *ids_of(" the")])
    assert told(subject) == (text, FINISH_REASON_STOP, stop)
    count = len(ids_of("the dog")) + stop.count("<|user|>")
    assert subject.unsent.ids == [*ids_of("the dog"), USER, USER][:count]


@pytest.mark.parametrize("shown", [True, False])
def test_the_matched_string_is_kept_on_demand(shown: bool) -> None:
    subject = candidate("dog<|user|>", shown=shown, include_matched=True)
    feed(subject, [*ids_of("the dog"), USER])
    assert told(subject) == ("the dog<|user|>", FINISH_REASON_STOP, "dog<|user|>")


def test_a_stop_string_goes_on_after_a_special_token() -> None:
    subject = candidate("<|user|>\nthe")
    feed(subject, [*ids_of("dog"), USER, *ids_of("\nthe quick")])
    assert told(subject) == ("dog", FINISH_REASON_STOP, "<|user|>\nthe")


def test_text_held_back_behind_a_special_token_is_told_where_nothing_comes_of_it() -> None:
    subject = candidate("<|user|>\nthe")
    feed(subject, [*ids_of("dog"), USER, *ids_of("\n")])
    assert told(subject)[0] == "dog"
    feed(subject, ids_of(" quick"), LENGTH)
    assert told(subject) == ("dog\n quick", FINISH_REASON_LENGTH, None)


def test_a_special_token_counts_after_min_tokens() -> None:
    subject = candidate("<|user|>", min_tokens=2)
    feed(subject, [USER, USER, *ids_of("dog"), USER])
    text, _, matched = told(subject)
    assert (text, matched, len(subject.unsent.ids)) == ("dog", "<|user|>", 3 + len(ids_of("dog")))


def test_a_named_token_that_ends_the_model_too_is_a_matched_string() -> None:
    subject = candidate("<|user|>")
    feed(subject, [*ids_of("dog"), USER], STOP)
    assert told(subject) == ("dog", FINISH_REASON_STOP, "<|user|>")


def test_part_of_a_special_token_ends_nothing() -> None:
    subject = candidate("<|", ">")
    feed(subject, [USER, *ids_of("dog")])
    assert not subject.finished
    assert not isinstance(subject, SpecialCandidate)


def test_a_delivery_that_holds_the_named_token_ends_at_once() -> None:
    ids = [*ids_of("dog"), USER]
    before = Delivered(ids=array("i", ids).tobytes(), text_length=2)
    subject = candidate("<|user|>", delivered=[before])
    assert told(subject) == ("g", FINISH_REASON_STOP, "<|user|>")
    assert (subject.finished, subject.unsent.position) == (True, len(ids))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (byte_fallback, "▁<PRE>"),
        (byte_fallback, " <PRE>"),
        (byte_fallback, "<PRE>"),
        (word_piece, "▁<PRE>"),
        (word_piece, "</s>"),
        (end_of_word, "</s>"),
    ],
)
def test_a_special_token_is_named_by_its_content_or_its_text(make, name: str) -> None:
    tokenizer = make()
    tokenizer.add_special_tokens([AddedToken("▁<PRE>", normalized=False)])
    special = tokenizer.token_to_id("</s>" if name == "</s>" else "▁<PRE>")
    word = tokenizer.token_to_id("do") or tokenizer.token_to_id("dog")
    subject = candidate(name, spelling=Vocabulary(tokenizer))
    feed(subject, [word, special, word])
    assert told(subject) == (tokenizer.decode([word]), FINISH_REASON_STOP, name)
