"""A candidate takes each position once, says text when it can, and ends once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_level

from detokenizer_svc.candidate import Candidate, Outcome, Rules
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.stops import StopAutomaton, StopMatcher
from protos.generation_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
)
from protos.token_frame import LENGTH, NO_TOKEN, STOP

TOKENIZER = byte_level()
SPELLING = Vocabulary(TOKENIZER)
EOS = TOKENIZER.token_to_id("</s>")
TEXT = "the dog sleeps"


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def letters(text: str) -> list[int]:
    """Ids of one byte each."""
    return [id_ for letter in text for id_ in ids_of(letter)]


def candidate(
    stops: Sequence[str] = (),
    *,
    min_tokens: int = 0,
    include: bool = False,
    logprobs: bool = False,
    skip_special: bool = True,
) -> Candidate:
    rules = Rules(min_tokens=min_tokens, include_matched=include, logprobs=logprobs)
    matcher = StopMatcher(StopAutomaton(stops), include_matched=include) if stops else None
    context = ids_of("the quick")
    return Candidate(0, rules, SPELLING.decoder(context, skip_special=skip_special), matcher)


def feed(subject: Candidate, ids: Sequence[int], flags: int = 0) -> list[Outcome]:
    """Give `ids` their positions, and the last of them `flags`."""
    start = subject.expected
    return [
        subject.add_row(start + i, id_, flags if i == len(ids) - 1 else 0, -0.5, ())
        for i, id_ in enumerate(ids)
    ]


def text_of(subject: Candidate) -> str:
    return "".join(subject.unsent.text)


def test_says_text_as_it_comes() -> None:
    subject = candidate()
    feed(subject, ids_of(TEXT))
    assert (text_of(subject), subject.unsent.ids) == (TEXT, ids_of(TEXT))
    assert not subject.finished


def test_rows_that_came_before_are_dropped() -> None:
    subject = candidate()
    feed(subject, ids_of(TEXT))
    assert subject.add_row(0, 7, 0, 0.0, ()) == Outcome.DROPPED
    assert text_of(subject) == TEXT


def test_missing_rows_are_asked_for_once_until_they_come() -> None:
    subject = candidate()
    outcomes = [subject.add_row(position, 9, 0, 0.0, ()) for position in (0, 2, 3, 1, 2, 4)]
    assert outcomes == [
        Outcome.TAKEN,
        Outcome.MISSING,
        Outcome.AWAITED,
        Outcome.TAKEN,
        Outcome.TAKEN,
        Outcome.MISSING,
    ]


def test_a_stop_string_across_tokens_ends_it_with_the_token_that_completes_it() -> None:
    subject = candidate(["og sl"])
    ids = letters(TEXT)
    outcomes = feed(subject, ids)
    completing = TEXT.index("og sl") + len("og sl")
    assert text_of(subject) == "the d"
    assert subject.unsent.ids == ids[:completing]
    assert outcomes == [Outcome.TAKEN] * completing + [Outcome.DROPPED] * (len(ids) - completing)
    assert (subject.unsent.finish, subject.unsent.matched) == (FINISH_REASON_STOP, "og sl")


def test_a_matched_stop_string_is_kept_on_demand() -> None:
    subject = candidate(["og sl"], include=True)
    feed(subject, letters(TEXT))
    assert text_of(subject) == "the dog sl"


def test_ids_go_out_while_text_is_held_back() -> None:
    subject = candidate(["dog?"])
    feed(subject, letters("a dog"))
    assert (text_of(subject), len(subject.unsent.ids)) == ("a ", 5)


@pytest.mark.parametrize(
    ("min_tokens", "kept"),
    [(0, "a"), (1, "a"), (2, "aXa"), (3, "aXa"), (4, "aXaXa"), (9, "aXaXaXa")],
)
def test_a_stop_string_counts_after_min_tokens(min_tokens: int, kept: str) -> None:
    subject = candidate(["X"], min_tokens=min_tokens)
    feed(subject, letters("aXaXaXa"), LENGTH)
    assert text_of(subject) == kept


@pytest.mark.parametrize(("include", "text"), [(False, "the dog"), (True, "the dog</s>")])
def test_a_stop_token_is_among_the_ids_and_its_text_is_left_out(include: bool, text: str) -> None:
    subject = candidate(include=include, skip_special=False)
    feed(subject, [*ids_of("the dog"), EOS], STOP)
    assert text_of(subject) == text
    assert subject.unsent.ids[-1] == EOS
    assert (subject.unsent.finish, subject.unsent.matched) == (FINISH_REASON_STOP, EOS)


def test_a_stop_token_lets_go_of_what_is_held_back() -> None:
    subject = candidate(["dog!", "🌍!"])
    feed(subject, [*letters("a dog🌍")[:-1], EOS], STOP)
    assert text_of(subject) == "a dog\ufffd"


def test_length_lets_go_of_what_is_held_back() -> None:
    subject = candidate(["dog!"])
    feed(subject, letters("a dog"), LENGTH)
    assert (text_of(subject), subject.unsent.finish) == ("a dog", FINISH_REASON_LENGTH)
    assert subject.unsent.matched is None


def test_a_character_that_stays_incomplete_is_replaced_at_the_end() -> None:
    subject = candidate()
    feed(subject, letters("a🌍")[:-1], LENGTH)
    assert text_of(subject) == "a\ufffd"


def test_an_ending_without_token_lets_go_of_what_is_held_back() -> None:
    subject = candidate(["dog!"])
    feed(subject, letters("a dog"))
    assert subject.add_row(5, 0, LENGTH | NO_TOKEN, 0.0, ()) == Outcome.TAKEN
    assert (text_of(subject), len(subject.unsent.ids)) == ("a dog", 5)
    assert (subject.finished, subject.unsent.finish) == (True, FINISH_REASON_LENGTH)


def test_an_ending_without_token_names_the_stop_token_before_it() -> None:
    subject = candidate(["dog!"])
    subject.rewind([*letters("a dog"), EOS], 2, finished=False)
    assert subject.add_row(6, EOS, STOP | NO_TOKEN, 0.0, ()) == Outcome.TAKEN
    assert (text_of(subject), subject.unsent.ids) == ("dog", [])
    assert (subject.unsent.finish, subject.unsent.matched) == (FINISH_REASON_STOP, EOS)


def test_an_ending_waits_for_the_rows_before_it() -> None:
    subject = candidate()
    assert subject.add_row(1, 0, LENGTH | NO_TOKEN, 0.0, ()) == Outcome.MISSING
    assert not subject.finished


@pytest.mark.parametrize("flags", [LENGTH, STOP])
def test_a_completed_stop_string_wins_over_another_ending(flags: int) -> None:
    subject = candidate(["og"])
    feed(subject, letters("a dog"), flags)
    assert (text_of(subject), subject.unsent.matched) == ("a d", "og")
    assert subject.unsent.finish == FINISH_REASON_STOP


def test_a_stop_string_wins_only_if_it_counts() -> None:
    subject = candidate(["og"], min_tokens=6)
    feed(subject, letters("a dog"), LENGTH)
    assert (text_of(subject), subject.unsent.finish) == ("a dog", FINISH_REASON_LENGTH)


def test_log_probabilities_are_kept_where_wanted() -> None:
    top = [(3, -0.25), (4, -2.0)]
    wanted, unwanted = candidate(logprobs=True), candidate()
    for subject in (wanted, unwanted):
        subject.add_row(0, 9, 0, -0.5, top)
    assert wanted.unsent.scores == [(9, -0.5, top)]
    assert unwanted.unsent.scores == []


@given(st.text(), st.lists(st.text(min_size=1, max_size=3), max_size=2), st.data())
def test_going_on_after_any_delivery_says_just_the_rest(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    ids = ids_of(text)
    whole = candidate(stops)
    feed(whole, ids, LENGTH)
    ids = whole.unsent.ids
    cut = data.draw(st.integers(0, max(0, len(ids) - 1)))
    first = candidate(stops)
    feed(first, ids[:cut])
    said = data.draw(st.integers(0, len(text_of(first))))

    resumed = candidate(stops)
    resumed.rewind(ids[:cut], said, finished=False)
    assert resumed.unsent.position == cut
    assert resumed.unsent.ids == []
    feed(resumed, ids[cut:], LENGTH)

    assert text_of(first)[:said] + text_of(resumed) == text_of(whole)
    if ids:
        assert resumed.unsent.ids == ids[cut:]
        assert (resumed.unsent.finish, resumed.unsent.matched) == (
            whole.unsent.finish,
            whole.unsent.matched,
        )


def test_a_delivery_that_was_finished_wants_no_more() -> None:
    subject = candidate()
    subject.rewind(ids_of(TEXT), len(TEXT), finished=True)
    assert subject.finished
    assert not subject.unsent
    assert subject.add_row(subject.expected, 9, 0, 0.0, ()) == Outcome.DROPPED


def test_a_delivery_whose_ids_complete_a_stop_ends_at_once() -> None:
    subject = candidate(["dog"])
    subject.rewind(letters("a dog"), 0, finished=False)
    assert (subject.finished, text_of(subject)) == (True, "a ")
    assert (subject.unsent.finish, subject.unsent.matched) == (FINISH_REASON_STOP, "dog")


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)),
        max_size=40,
    ),
    st.lists(st.text("ab", max_size=3), max_size=2),
)
def test_no_row_makes_it_fail(rows: list[tuple[int, int, int]], stops: list[str]) -> None:
    subject = candidate(stops, logprobs=True)
    for position, token_id, flags in rows:
        before, ended = subject.expected, subject.finished
        subject.add_row(position, token_id, flags, float("nan"), ())
        assert subject.expected - before in (0, 1)
        assert not (ended and subject.expected != before)
    assert len(subject.unsent.ids) == subject.expected
    assert (subject.unsent.finish != FINISH_REASON_UNSPECIFIED) == subject.finished
