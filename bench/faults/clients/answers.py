"""Whole answers of requests, and the differences between two of them.

Two answers are equal when a client can distinguish them only by time. The cuts of a stream into
messages are not part of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from triptych.client.results import (
    CandidateText,
    Completion,
    Delta,
    FinishReason,
    PromptEcho,
    TokenLogprob,
    Usage,
)

_SHOWN = 60  # characters of a value in a message


class Disorder(Exception):
    """A stream broke a rule that holds for every stream."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All of one request's answer.

    Attributes:
        candidates: whole, in order of index.
        prompt_tokens: of its usage.
        completion_tokens: of its usage; what was cached is a matter of cost and left out.
        prompt: where it was asked for.
    """

    candidates: tuple[CandidateText, ...]
    prompt_tokens: int
    completion_tokens: int
    prompt: PromptEcho | None


def of_completion(completion: Completion) -> Answer:
    """The answer of a unary call."""
    return _answer(completion.candidates, completion.usage, completion.prompt)


class Joiner:
    """Joins a stream's messages."""

    def __init__(self) -> None:
        self._parts: dict[int, list[CandidateText]] = {}
        self._usage: Usage | None = None
        self._prompt: PromptEcho | None = None
        self._messages = 0

    def add(self, delta: Delta) -> None:
        """Take the next message.

        Raises:
            Disorder: it may not come here.
        """
        if self._usage is not None:
            raise Disorder("a message after the one with the usage")
        if delta.prompt is not None and self._messages:
            raise Disorder("a prompt that is not in the first message")
        self._messages += 1
        self._prompt = self._prompt or delta.prompt
        self._usage = delta.usage
        for part in delta.candidates:
            parts = self._parts.setdefault(part.index, [])
            if parts and parts[-1].finish_reason is not None:
                raise Disorder(f"candidate {part.index} goes on after its end")
            parts.append(part)

    def answer(self) -> Answer:
        """The whole, once the stream has ended.

        Raises:
            Disorder: something is missing.
        """
        if self._usage is None:
            raise Disorder("no usage in the last message")
        candidates = tuple(_join(self._parts[index]) for index in sorted(self._parts))
        for candidate in candidates:
            if candidate.finish_reason is None:
                raise Disorder(f"candidate {candidate.index} has no end")
        return _answer(candidates, self._usage, self._prompt)


def _answer(
    candidates: tuple[CandidateText, ...], usage: Usage, prompt: PromptEcho | None
) -> Answer:
    return Answer(candidates, usage.prompt_tokens, usage.completion_tokens, prompt)


def _join(parts: list[CandidateText]) -> CandidateText:
    ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    for part in parts:
        ids += part.token_ids
        logprobs += part.logprobs
    last = parts[-1]
    finish: FinishReason | None = last.finish_reason
    return CandidateText(
        index=last.index,
        text="".join(part.text for part in parts),
        token_ids=tuple(ids),
        finish_reason=finish,
        matched_stop=last.matched_stop,
        matched_token_id=last.matched_token_id,
        logprobs=tuple(logprobs),
    )


def differences(expected: Answer, got: Answer) -> list[str]:
    """In what `got` is not `expected`: a line for each field, empty where they are equal."""
    found = _fields("", expected, got, skipped=("candidates", "prompt"))
    if len(expected.candidates) != len(got.candidates):
        found.append(f"{len(got.candidates)} candidates, not {len(expected.candidates)}")
    for one, other in zip(expected.candidates, got.candidates, strict=False):
        found += _fields(f"candidate {one.index}: ", one, other)
    if expected.prompt is None or got.prompt is None:
        found += [] if expected.prompt is got.prompt else ["prompt: only one of them has it"]
    else:
        found += _fields("prompt: ", expected.prompt, got.prompt)
    return found


def _fields(where: str, expected: object, got: object, skipped: tuple[str, ...] = ()) -> list[str]:
    found = []
    for field in fields(expected):  # type: ignore[arg-type]
        one, other = getattr(expected, field.name), getattr(got, field.name)
        if field.name not in skipped and one != other:
            found.append(f"{where}{field.name}: {_first_difference(one, other)}")
    return found


def _first_difference(expected: object, got: object) -> str:
    """First position at which two values differ, and the rest of each."""
    if not isinstance(expected, (str, tuple)) or not isinstance(got, (str, tuple)):
        return f"{got!r}, not {expected!r}"
    pairs = zip(expected, got, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    if at is None:
        at = min(len(expected), len(got))
    return (
        f"from {at} on (of {len(expected)} and {len(got)}) "
        f"{_shown(got[at:])}, not {_shown(expected[at:])}"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
