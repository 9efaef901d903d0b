"""A model without tensors: what it says is a plain function, and its KV cache holds token ids.

So a wrong slot, or a token computed after the wrong ones, gives a wrong token. Its vocabulary is
that of `byte_level`; it says a few letters, and characters of several bytes a byte at a time.

A model that *rounds* says other things each time a request is started, as one in bf16 may: its
*flavour*, a number higher at each start, is part of the function.
"""

from __future__ import annotations

import itertools
import zlib
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
from support.tiny_tokenizers import byte_level

from detokenizer_svc.decoder import Vocabulary
from model_svc.engine.request import NO_ALTERNATIVES, Request
from model_svc.scheduling.step import Admission, Chunks, Scores, StepInput, StepOutput
from protos.token_frame import ALTERNATIVE

Requests = Callable[[int], Request]
"""The request of a handle."""

DEADLY = "deadly"
"""The kind of request whose computation ends the process, as its id ends."""

_DEADLY_AFTER = 2
_LETTERS = ("a", "b", "a", "b", " the", " ", "</s>")
_CHARACTERS = ("é", "世", "🌍")


@cache
def spelling() -> Vocabulary:
    """How ids are spelled."""
    return Vocabulary(byte_level())


@cache
def _ids() -> dict[bytes, int]:
    return {piece: token_id for token_id, piece in enumerate(spelling().pieces)}


def token(piece: str | bytes) -> int:
    """The id of a token."""
    return _ids()[piece.encode() if isinstance(piece, str) else piece]


@cache
def eos_id() -> int:
    return token("</s>")


@cache
def _alphabet() -> tuple[int, ...]:
    leads = [token(character.encode()[:1]) for character in _CHARACTERS]
    return (*map(token, _LETTERS), *leads)


@cache
def _continuations() -> dict[bytes, int]:
    """Beginning of a character → the byte that goes on with it."""
    return {
        raw[:i]: token(raw[i : i + 1])
        for character in _CHARACTERS
        for raw in [character.encode()]
        for i in range(1, len(raw))
    }


class Died(Exception):
    """The engine is at its end."""


@dataclass(frozen=True, slots=True)
class Voice:
    """What decides, beside the tokens so far, how an output goes on."""

    seed: int
    candidate: int
    flavour: int

    def chance(self, tokens: Sequence[int], purpose: int = 0) -> int:
        """A number that looks random."""
        mixed = (self.flavour * 64 + self.seed) * 64 + self.candidate * 2 + purpose
        return zlib.crc32(array("i", tokens).tobytes(), mixed)


def next_token(tokens: Sequence[int], voice: Voice, forbidden: Collection[int] = ()) -> int:
    """What the model says after `tokens`, but for what it may not say yet."""
    chance = voice.chance(tokens)
    if chance % 8 >= (5 if voice.flavour else 1):  # where it rounds, outputs differ more
        raw = b"".join(spelling().pieces[each] for each in tokens[-3:])
        for size in (3, 2, 1):
            going_on = _continuations().get(raw[-size:])
            if len(raw) >= size and going_on is not None:
                return going_on
    alphabet = _alphabet()
    allowed = [each for each in alphabet if each not in forbidden]
    return allowed[chance // 8 % len(allowed)]


def logprob(tokens: Sequence[int], voice: Voice) -> float:
    """The log-probability of what it says after `tokens`, exact in float32."""
    return -(voice.chance(tokens, purpose=1) % 64) / 8


PROMPT_VOICE = Voice(0, 0, 0)
"""By which a prompt is scored."""


def alternatives(tokens: Sequence[int], count: int) -> list[tuple[int, float]]:
    """The likeliest that it could have said after `tokens`."""
    alphabet = _alphabet()
    return [(alphabet[(len(tokens) + i) % len(alphabet)], -i / 4) for i in range(count)]


class Flavours:
    """The flavours of a deployment's models: 0 for all, or another at each start of a request."""

    def __init__(self, *, rounds: bool) -> None:
        self._rounds = rounds
        self._known: WeakKeyDictionary[Request, int] = WeakKeyDictionary()
        self._of: dict[str, list[int]] = {}
        self._numbers = itertools.count(1)

    def take(self, request: Request) -> int:
        """The flavour of a request that a model runs."""
        if not self._rounds:
            return 0
        if request not in self._known:
            self._known[request] = next(self._numbers)
            self.of(request.spec.request_id).append(self._known[request])
        return self._known[request]

    def of(self, request_id: str) -> list[int]:
        """All that a request was given, in order."""
        return self._of.setdefault(request_id, [] if self._rounds else [0])


@dataclass(slots=True)
class _Row:
    """State of a row of the simulated model."""

    prompt: list[int]
    tokens: list[int]
    admission: Admission
    request_id: str
    voice: Voice


class PlainRunner:
    """Computes steps of it."""

    depth = 0

    def __init__(
        self, slots: int, rows: int, context: int, flavours: Flavours, requests: Requests
    ) -> None:
        self._flavours = flavours
        self._requests = requests
        self._cache = np.full(slots, -1, dtype=np.int32)
        self._table = np.full((rows, context), -1, dtype=np.int32)
        self._rows: list[_Row | None] = [None] * rows

    def launch(self, step: StepInput) -> StepOutput:
        for one in step.admissions:
            self._admit(one)
        chunks = step.chunks
        at = 0
        for row, start, count in zip(
            chunks.rows.tolist(), chunks.starts.tolist(), chunks.counts.tolist(), strict=True
        ):
            own = self._at(row)
            deadly = own.request_id.endswith(DEADLY)
            if deadly and len(own.tokens) - len(own.prompt) >= _DEADLY_AFTER:
                raise Died
            slots = chunks.slots[at : at + count]
            at += count
            self._table[row, start : start + count] = slots
            self._cache[slots] = own.tokens[start : start + count]
        scores = tuple(self._score(chunks, number) for number in step.scored.tolist())
        return self._draw(chunks.draw_rows.tolist(), scores)

    def collect(self, ticket: object) -> StepOutput:
        assert isinstance(ticket, StepOutput)
        return ticket

    def _admit(self, one: Admission) -> None:
        request = self._requests(one.sequence)
        voice = Voice(one.sampling.seed, one.candidate, self._flavours.take(request))
        prompt = one.prompt.tolist()
        tokens = [*prompt, *one.output.tolist()]
        self._rows[one.row] = _Row(prompt, tokens, one, request.spec.request_id, voice)
        self._table[one.row, : len(one.shared_slots)] = one.shared_slots

    def _at(self, row: int) -> _Row:
        own = self._rows[row]
        assert own is not None
        return own

    def _draw(self, rows: Sequence[int], scores: tuple[Scores, ...]) -> StepOutput:
        tokens, logprobs, others = [], [], []
        for row in rows:
            own = self._at(row)
            sampling = own.admission.sampling
            seen = self._cache[self._table[row, : len(own.tokens)]].tolist()
            position = len(own.tokens) - len(own.prompt)
            forbidden = sampling.suppressed_ids if sampling.suppresses(position) else ()
            tokens.append(next_token(seen, own.voice, forbidden))
            own.tokens.append(tokens[-1])
            wanted = sampling.logprobs is not None
            logprobs.append(logprob(seen, own.voice) if wanted else np.nan)
            others.append(_records(alternatives(seen, sampling.logprobs or 0)))
        return StepOutput(
            np.array(tokens, dtype=np.int32),
            np.array(logprobs, dtype=np.float32),
            tuple(others),
            scores=scores,
        )

    def _score(self, chunks: Chunks, number: int) -> Scores:
        own = self._at(int(chunks.rows[number]))
        prompt, count = own.prompt, own.admission.sampling.logprobs or 0
        start = int(chunks.starts[number])
        last = min(start + int(chunks.counts[number]), len(prompt) - 1)
        positions = range(start + 1, last + 1)
        logprobs = [logprob(prompt[:i], PROMPT_VOICE) for i in positions]
        others = tuple(_records(alternatives(prompt[:i], count)) for i in positions)
        return Scores(np.array(logprobs, np.float32), others)


def _records(alternatives: Sequence[tuple[int, float]]) -> np.ndarray:
    return np.array(alternatives, dtype=ALTERNATIVE) if alternatives else NO_ALTERNATIVES
