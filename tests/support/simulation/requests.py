"""Requests of each kind, and what they must come to.

That is worked out here from the whole output at once, by other means than the services use.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from support.simulation.model import (
    DEADLY,
    PROMPT_VOICE,
    Voice,
    alternatives,
    eos_id,
    logprob,
    next_token,
    spelling,
    token,
)

from protos import generation_pb2

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH
UNFINISHED = generation_pb2.FINISH_REASON_UNSPECIFIED


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        whole: the answer is wanted in one piece.
        slow: its client reads a step only when told to.
    """

    prompt: str = "a the b"
    n: int = 1
    stop: dict[str, Any] = field(default_factory=dict)
    stop_token: str = ""
    output: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    slow: bool = False
    priority: int = 0


KINDS: dict[str, Kind] = {
    "plain": Kind(stop={"max_tokens": 6}),
    "long": Kind(stop={"max_tokens": 20, "ignore_eos": True}),
    "text only": Kind(stop={"max_tokens": 8}, output={"token_ids": False}),
    "candidates": Kind(n=3, stop={"max_tokens": 6, "ignore_eos": True}),
    "stop strings": Kind(
        n=2, stop={"max_tokens": 16, "ignore_eos": True, "strings": ["abb", "ba ", "bab", "🌍"]}
    ),
    "stop kept": Kind(
        stop={
            "max_tokens": 14,
            "ignore_eos": True,
            "min_tokens": 5,
            "strings": ["ab", "é"],
            "include_matched": True,
        }
    ),
    "stop ids": Kind(stop={"max_tokens": 10, "min_tokens": 2}, stop_token="b"),
    "scores": Kind(n=2, stop={"max_tokens": 7}, output={"logprobs": 2}),
    "prompt scores": Kind(
        prompt="世 ab🌍 the",
        n=2,
        stop={"max_tokens": 5},
        output={"logprobs": 1, "prompt_logprobs": True},
    ),
    "only prompt scores": Kind(
        prompt="ab the ab ba", stop={"max_tokens": 0}, output={"prompt_logprobs": True}
    ),
    "nothing": Kind(stop={"max_tokens": 0}),
    "echo": Kind(prompt="ab the 世", stop={"max_tokens": 4}, output={"echo": True}),
    "whole": Kind(n=2, stop={"max_tokens": 8, "strings": ["ab"]}, whole=True),
    "urgent": Kind(stop={"max_tokens": 9, "ignore_eos": True}, priority=-1),
    DEADLY: Kind(stop={"max_tokens": 6, "ignore_eos": True}),
    "slow reader": Kind(
        n=2, stop={"max_tokens": 8, "ignore_eos": True}, output={"logprobs": 0}, slow=True
    ),
}


@cache
def request_of(name: str, seed: int) -> generation_pb2.GenerateRequest:
    """The message of a request of a kind; not to be changed."""
    kind = KINDS[name]
    request = generation_pb2.GenerateRequest(priority=kind.priority)
    request.token_ids.ids.extend(token(character) for character in _pieces(kind.prompt))
    request.sampling.seed = seed
    request.sampling.n = kind.n
    request.stop.CopyFrom(generation_pb2.StopConditions(**kind.stop))
    if kind.stop_token:
        request.stop.token_ids.append(token(kind.stop_token))
    request.output.CopyFrom(generation_pb2.OutputOptions(**({"token_ids": True} | kind.output)))
    return request


def _pieces(text: str) -> list[str | bytes]:
    """Tokens that spell a text: ` the`, and single bytes."""
    pieces: list[str | bytes] = []
    for i, part in enumerate(text.split(" the")):
        pieces += [" the"] if i else []
        pieces += [bytes([byte]) for byte in part.encode()]
    return pieces


@cache
def undisturbed(kind: str, seed: int) -> tuple[tuple[int, ...], ...]:
    """The output of each candidate of such a request by a model that does not round."""
    request = request_of(kind, seed)
    outputs = []
    for index in range(request.sampling.n):
        ids: list[int] = []
        while not _told(request, index, ids).finish_reason:
            ids.append(says(request, ids, Voice(seed, index, 0)))
        outputs.append(tuple(ids))
    return tuple(outputs)


def says(request: generation_pb2.GenerateRequest, ids: Sequence[int], voice: Voice) -> int:
    """What the model says after the output `ids`."""
    forbidden = _endings(request) if len(ids) < request.stop.min_tokens else ()
    return next_token([*request.token_ids.ids, *ids], voice, forbidden)


def told(kind: str, seed: int, index: int, ids: tuple[int, ...]) -> generation_pb2.Candidate:
    """What is told of a candidate with the output `ids`, but for log-probabilities.

    The text is all that can be said, also what may yet turn out to begin a stop string.
    """
    copy = generation_pb2.Candidate()
    copy.CopyFrom(_told_by_kind(kind, seed, index, ids))
    return copy


@lru_cache(maxsize=1 << 16)
def _told_by_kind(
    kind: str, seed: int, index: int, ids: tuple[int, ...]
) -> generation_pb2.Candidate:
    return _told(request_of(kind, seed), index, ids)


def _told(
    request: generation_pb2.GenerateRequest, index: int, ids: Sequence[int]
) -> generation_pb2.Candidate:
    stop = request.stop
    told = generation_pb2.Candidate(index=index)
    said = ""
    for count, last in enumerate(ids, 1):
        told.token_ids.append(last)
        stopped = last in _endings(request) and count > stop.min_tokens
        before, said = said, _text(told.token_ids, final=stopped or count == stop.max_tokens)
        match = _match(said, len(before), stop.strings) if count > stop.min_tokens else None
        if match is not None:
            end, told.matched_stop = match
            cut = 0 if stop.include_matched else len(told.matched_stop)
            told.text, told.finish_reason = said[: end - cut], STOP
            return told
        if stopped:
            kept = told.token_ids if stop.include_matched else told.token_ids[:-1]
            told.text, told.finish_reason = _text(kept, final=True), STOP
            told.matched_token_id = last
            return told
    told.text = said
    told.finish_reason = LENGTH if len(ids) == stop.max_tokens else UNFINISHED
    return told


def _endings(request: generation_pb2.GenerateRequest) -> frozenset[int]:
    """The ids that end an output."""
    return frozenset(request.stop.token_ids) | (
        frozenset() if request.stop.ignore_eos else frozenset({eos_id()})
    )


def _text(ids: Sequence[int], *, final: bool) -> str:
    """What can be said after `ids`, or is if nothing more comes."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    visible = (b"" if each == eos_id() else spelling().pieces[each] for each in ids)
    return decoder.decode(b"".join(visible), final)


def _match(text: str, known: int, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first stop string in `text` ends, beyond its first `known` characters."""
    for end in range(known + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


def scored(
    request: generation_pb2.GenerateRequest, seen: Sequence[int], drawn: int, voice: Voice
) -> generation_pb2.TokenLogprob:
    """What is told of how likely `drawn` was after `seen`."""
    pieces = spelling().pieces
    score = generation_pb2.TokenLogprob(
        token_id=drawn, token=pieces[drawn], logprob=logprob(seen, voice)
    )
    for other, likely in alternatives(seen, request.output.logprobs):
        score.top.add(token_id=other, token=pieces[other], logprob=likely)
    return score


def expected_prompt(request: generation_pb2.GenerateRequest) -> generation_pb2.Prompt | None:
    """What must be told of the prompt."""
    output, ids = request.output, list(request.token_ids.ids)
    if not (output.echo or output.prompt_logprobs):
        return None
    prompt = generation_pb2.Prompt(token_ids=ids if output.token_ids else ())
    if output.echo:
        prompt.text = _text(ids, final=True)
    if output.prompt_logprobs:
        pieces = spelling().pieces
        prompt.logprobs.add(token_id=ids[0], token=pieces[ids[0]], logprob=0.0)
        prompt.logprobs.extend(
            scored(request, ids[:i], ids[i], PROMPT_VOICE) for i in range(1, len(ids))
        )
    return prompt
