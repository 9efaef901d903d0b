"""The steps of a tokenizer's decoder, applied token by token.

The texts that `push` returned, followed by `held`, are the text of all tokens so far. A step
returns only what no later token can change. Where a step's rule needs the whole text, `push`
returns nothing and all text comes with `held`.

Source: the decoders of the `tokenizers` library, which the tests compare with.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer

from protos.vocabulary.byte_tokens import ByteAlphabet, ByteRuns
from protos.vocabulary.fused_text import (
    Each,
    Spec,
    Step,
    StripText,
    Whole,
    library_step,
    step_of_text,
)


class DecoderSteps:
    """State of a decoder after some tokens of one text."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps = list(steps)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> DecoderSteps:
        """The steps of `tokenizer`, before any token."""
        return cls(_make_steps(tokenizer))

    def __copy__(self) -> DecoderSteps:
        return DecoderSteps(map(copy.copy, self._steps))

    def push(self, token: str) -> str:
        """Process a token; return the text that is now final."""
        tokens: Iterable[str] = (token,)
        for step in self._steps:
            tokens = [given for taken in tokens for given in step.push(taken)]
        return "".join(tokens)

    def held(self) -> str:
        """The text that is held back, if nothing more comes."""
        tokens: list[str] = []
        for step in map(copy.copy, self._steps):
            tokens = [given for taken in tokens for given in step.push(taken)]
            tokens += step.end()
        return "".join(tokens)


def list_specs(tokenizer: Tokenizer) -> list[Spec]:
    """The decoder's steps in order, as tokenizer.json spells them; none without decoder."""
    decoder = tokenizer.decoder
    return [] if decoder is None else list(_flatten([json.loads(decoder.__getstate__())]))


def _flatten(specs: Iterable[Spec]) -> Iterator[Spec]:
    for spec in specs:
        if spec["type"] == "Sequence":
            yield from _flatten(spec["decoders"])
        else:
            yield spec


def _make_steps(tokenizer: Tokenizer) -> Iterator[Step]:
    if tokenizer.decoder is None:
        yield _Spaced()
        return
    specs = list_specs(tokenizer)
    if not all(spec["type"] in (*_OF_TOKENS, "Fuse") for spec in specs):
        yield Whole(tokenizer.decoder.decode)
        return
    fused = False
    for spec in specs:
        if spec["type"] != "Fuse":
            yield step_of_text(spec) if fused else _OF_TOKENS[spec["type"]](spec)
        fused = fused or spec["type"] in ("Fuse", "ByteLevel")


class _Spaced:
    """Tokens joined by spaces, as the library does without a decoder."""

    def __init__(self) -> None:
        self._space = ""

    def push(self, token: str) -> Iterable[str]:
        spaced = self._space + token
        self._space = " "
        return (spaced,)

    def end(self) -> Iterable[str]:
        return ()


class _FirstApart:
    """A step with another rule for the first token than for the rest."""

    def __init__(self, spec: Spec) -> None:
        self._decode = library_step(spec)
        self._before: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        text = self._decode([*self._before, token])
        self._before = [""]
        return (text,)

    def end(self) -> Iterable[str]:
        return ()


class _LastApart:
    """A step with another rule for the last token than for the rest."""

    def __init__(self, spec: Spec) -> None:
        self._decode = library_step(spec)
        self._last: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        before, self._last = self._last, [token]
        return [self._decode([*before, ""])] if before else ()

    def end(self) -> Iterable[str]:
        return [self._decode(self._last)] if self._last else ()


class _Distinct:
    """A step that ignores a token after the same one, and drops tokens without text."""

    def __init__(self, spec: Spec) -> None:
        self._decode = library_step(spec)
        self._before: str | None = None

    def push(self, token: str) -> Iterable[str]:
        if token == self._before:
            return ()
        self._before = token
        text = self._decode([token])
        return (text,) if text else ()

    def end(self) -> Iterable[str]:
        return ()


class _StripEach:
    """Characters dropped from both ends of each token."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def push(self, token: str) -> Iterable[str]:
        return StripText(self._spec).push(token)

    def end(self) -> Iterable[str]:
        return ()


_OF_TOKENS: dict[str, Callable[[Spec], Step]] = {
    "BPEDecoder": _LastApart,
    "ByteFallback": lambda _: ByteRuns(),
    "ByteLevel": lambda _: ByteAlphabet(),
    "CTC": _Distinct,
    "Metaspace": _FirstApart,
    "Replace": Each,
    "Strip": _StripEach,
    "WordPiece": _FirstApart,
}
