"""Wherever a delivery is cut off, what follows it completes the undisturbed output exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_fallback, byte_level, word_piece

from detokenizer_svc.candidate import Candidate, Outcome, Rules, SpecialCandidate
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.stops import SpecialMatcher, StopAutomaton, StopMatcher
from protos.detokenizer_pb2 import TextDelta
from protos.token_frame import LENGTH, NO_TOKEN, STOP

SPELLINGS = {
    "bytes": Vocabulary(byte_level()),
    "words and bytes": Vocabulary(byte_fallback()),
    "words": Vocabulary(word_piece()),
}


def interesting_ids(spelling: Vocabulary) -> list[int]:
    """Parts of characters, a few letters, what has no text, what is no id of the tokenizer."""
    pieces = [bytes([byte]) for byte in "🌍世é".encode() + b"aab\xff"]
    pieces += [b"do", b"dog", b" the", b"the", b"s", b"</s>", b"<s>"]
    known = [spelling.pieces.index(piece) for piece in pieces if piece in spelling.pieces]
    return [*known, len(spelling) + 3]


IDS = {name: interesting_ids(spelling) for name, spelling in SPELLINGS.items()}


@dataclass(frozen=True)
class Case:
    """An output, as the model draws it, and how it is to be told."""

    spelling: str
    ids: list[int]
    ending: int
    stops: list[str]
    include: bool
    min_tokens: int
    skip_special: bool

    def candidate(self) -> Candidate:
        rules = Rules(self.min_tokens, self.include, logprobs=True)
        spelling = SPELLINGS[self.spelling]
        decoder = spelling.decoder(IDS[self.spelling][:2], skip_special=self.skip_special)
        if not self.stops:
            return Candidate(0, rules, decoder, None)
        automaton = StopAutomaton(self.stops)
        named = spelling.special_names.found_in(self.stops) if self.skip_special else {}
        if named:
            special = SpecialMatcher(automaton, include_matched=self.include)
            return SpecialCandidate(0, rules, decoder, special, named)
        matcher = StopMatcher(automaton, include_matched=self.include)
        return Candidate(0, rules, decoder, matcher)

    def feed(self, candidate: Candidate, position: int) -> Outcome:
        """Give it the row of a position; the one after the last is the ending alone."""
        last = len(self.ids) - 1
        if position > last:
            token_id = self.ids[-1] if self.ending == STOP else 0
            return candidate.add_row(position, token_id, self.ending | NO_TOKEN, 0.0, ())
        flags = self.ending if position == last else 0
        return candidate.add_row(position, self.ids[position], flags, -1.0, ())


@dataclass
class Told:
    """What a router was told of a candidate."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: int = 0
    matched: str | int | None = None

    def hear(self, candidate: Candidate) -> None:
        """Take in the next delta of a candidate that has something to tell."""
        delta = TextDelta()
        candidate.unsent.move_into(delta, lambda token_id: b"")
        assert delta.position == len(self.ids)
        assert len(delta.logprobs) == len(delta.token_ids)
        self.ids += delta.token_ids
        self.text += delta.text
        self.finish = delta.finish_reason
        matched = delta.WhichOneof("matched")
        self.matched = getattr(delta, matched) if matched else None

    def hear_all(self, candidate: Candidate) -> None:
        while candidate.unsent:
            self.hear(candidate)


STOP_STRING = st.lists(
    st.sampled_from([*"abdost🌍世 \ufffd", "<s>", "</s>"]), min_size=1, max_size=3
).map("".join)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SPELLINGS)))
    return Case(
        spelling=name,
        ids=draw(st.lists(st.sampled_from(IDS[name]), min_size=1, max_size=12)),
        ending=draw(st.sampled_from([LENGTH, STOP])),
        stops=draw(st.lists(STOP_STRING, max_size=2)),
        include=draw(st.booleans()),
        min_tokens=draw(st.integers(0, 6)),
        skip_special=draw(st.booleans()),
    )


def undisturbed(case: Case) -> Told:
    candidate, told = case.candidate(), Told()
    for position in range(len(case.ids)):
        case.feed(candidate, position)
    told.hear_all(candidate)
    return told


def interrupted(case: Case, rows: int, deltas: int, pace: int) -> Told:
    """What is told in all if the link breaks.

    Args:
        case: the output.
        rows: how many have come by then.
        deltas: how many have been heard by then.
        pace: rows for each delta.
    """
    candidate, told = case.candidate(), Told()
    for position in range(rows):
        case.feed(candidate, position)
        if candidate.unsent and deltas and position % pace == 0:
            told.hear(candidate)
            deltas -= 1
    while candidate.unsent and deltas:
        told.hear(candidate)
        deltas -= 1

    again = case.candidate()
    again.rewind(told.ids, len(told.text), finished=bool(told.finish))
    for position in range(len(told.ids), len(case.ids) + 1):
        case.feed(again, position)
    told.hear_all(again)
    return told


@given(cases(), st.integers(1, 5))
def test_every_cut_is_made_good(case: Case, pace: int) -> None:
    with patch("detokenizer_svc.pending_delta.MOST_POSITIONS", 2):
        whole = undisturbed(case)
        for rows in range(len(case.ids) + 1):
            for deltas in range(rows + 1):
                assert interrupted(case, rows, deltas, pace) == whole, (rows, deltas)
