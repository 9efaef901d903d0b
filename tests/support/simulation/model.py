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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
from support.tiny_tokenizers import byte_level

from detokenizer_svc.decoder import Vocabulary
from model_svc.engine.request import NO_ALTERNATIVES, Candidate, OutputRow, Request
from model_svc.engine.runner import StepResult
from model_svc.sampling.cpu_sampler import Drawn
from model_svc.sampling.params import SamplingParams
from model_svc.scheduling.scheduler import Chunk, Plan
from model_svc.scheduling.scheduler import Sequence as Scheduled
from protos.token_frame import ALTERNATIVE, PROMPT

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


class PlainRunner:
    """Computes steps of it."""

    def __init__(self, slots: int, slot_table: np.ndarray, flavours: Flavours) -> None:
        self._flavours = flavours
        self._cache = np.full(slots, -1, dtype=np.int32)
        self._table = slot_table

    def run(self, plan: Plan, candidates: Mapping[Scheduled, Candidate]) -> StepResult:
        drawn_for: list[Candidate] = []
        prompt_rows = []
        for chunk in plan.chunks:
            owner = candidates[chunk.sequence]
            deadly = owner.request.spec.request_id.endswith(DEADLY)
            if deadly and len(owner.output) >= _DEADLY_AFTER:
                raise Died
            slots = self._table[chunk.sequence.row, chunk.start : chunk.start + chunk.count]
            self._cache[slots] = owner.tokens(chunk.start, chunk.count)
            drawn_for += [one for s in chunk.draws if (one := candidates[s]).may_draw]
            if owner.request.wants_scores_from(chunk.start):
                prompt_rows.append((owner, _score(owner, chunk)))
        return StepResult(drawn_for, self._draw(drawn_for), prompt_rows)

    def _draw(self, drawn_for: Sequence[Candidate]) -> Drawn | None:
        if not drawn_for:
            return None
        tokens, logprobs, others = [], [], []
        for one in drawn_for:
            sampling, seen = one.request.spec.sampling, self._seen(one)
            voice = Voice(sampling.seed, one.index, self._flavours.take(one.request))
            tokens.append(next_token(seen, voice, _forbidden(one)))
            wanted = sampling.logprobs is not None
            logprobs.append(logprob(seen, voice) if wanted else np.nan)
            others.append(_records(alternatives(seen, sampling.logprobs or 0)))
        return Drawn(
            np.array(tokens, dtype=np.int32), np.array(logprobs, dtype=np.float32), tuple(others)
        )

    def _seen(self, candidate: Candidate) -> list[int]:
        sequence = candidate.sequence
        return self._cache[self._table[sequence.row, : sequence.known]].tolist()


def _forbidden(candidate: Candidate) -> Collection[int]:
    sampling: SamplingParams = candidate.request.spec.sampling
    return sampling.suppressed_ids if sampling.suppresses(len(candidate.output)) else ()


def _score(owner: Candidate, chunk: Chunk) -> list[OutputRow]:
    spec = owner.request.spec
    prompt = spec.prompt.tolist()
    rows = [] if chunk.start else [OutputRow(0, prompt[0], 0.0, PROMPT, NO_ALTERNATIVES)]
    for i in range(chunk.start + 1, min(chunk.start + chunk.count, len(prompt) - 1) + 1):
        others = _records(alternatives(prompt[:i], spec.sampling.logprobs or 0))
        rows.append(OutputRow(i, prompt[i], logprob(prompt[:i], PROMPT_VOICE), PROMPT, others))
    return rows


def _records(alternatives: Sequence[tuple[int, float]]) -> np.ndarray:
    return np.array(alternatives, dtype=ALTERNATIVE) if alternatives else NO_ALTERNATIVES
