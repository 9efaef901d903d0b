"""Steps of a decoder after Fuse: their only token is the whole text, in parts.

Each is a `Step`, as `decoder_steps` applies them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tokenizers import decoders

# Patterns that match at the start of a text only, and what of them stands for one character.
_OPENING = r"\(\?(?:[=!:>]|<[=!])"
_CHARACTER = r"\\[sSdDwWhHnrt\W]|\[\^?[^\[\]\\&]+\]|[^\\|*+?{}~()\[\]^]"
_START_RULE = re.compile(rf"\\A(?:{_OPENING}|(?:{_CHARACTER}|\))\??)*")
_ONE_CHARACTER = re.compile(rf"(?!\$)(?:{_CHARACTER})")
_LITERAL = re.compile(r"[^\\|*+?{}~()\[\]^$.]+")

Spec = dict[str, Any]
"""A step as tokenizer.json spells it."""


class Step(Protocol):
    """One step; its state is copied by `copy.copy`."""

    def push(self, token: str) -> Iterable[str]:
        """Process a token; return the tokens that are now final."""
        ...

    def end(self) -> Iterable[str]:
        """The tokens that are still held, if nothing more comes."""
        ...


def library_step(spec: Spec) -> Callable[[list[str]], str]:
    """Make the library's own step; the text of a list of tokens."""
    decoder = decoders.Fuse()
    decoder.__setstate__(json.dumps(spec).encode())  # whatever kind it was before
    return decoder.decode


def step_of_text(spec: Spec) -> Step:
    """Make the step for a text that comes in parts.

    Args:
        spec: a step of the decoder; one that cannot be applied to parts returns all at the end.
    """
    kind = spec["type"]
    if kind == "Strip":
        return StripText(spec)
    if kind == "Metaspace":
        return Each(spec)
    if kind == "BPEDecoder" and spec["suffix"]:
        return ReplaceText(spec["suffix"], "")
    if kind == "Replace" and (step := _replacing_step(spec)):
        return step
    decode = library_step(spec)
    return Whole(lambda parts: decode(["".join(parts)]))


def _replacing_step(spec: Spec) -> Step | None:
    string, regex = (spec["pattern"].get(form, "") for form in ("String", "Regex"))
    if string or _LITERAL.fullmatch(regex):
        return ReplaceText(string or regex, spec["content"])
    if _ONE_CHARACTER.fullmatch(regex):
        return Each(spec)
    return StartRule(spec) if _START_RULE.fullmatch(regex) else None


class Each:
    """A step that changes each token by itself."""

    def __init__(self, spec: Spec) -> None:
        self._decode = library_step(spec)

    def push(self, token: str) -> Iterable[str]:
        return (self._decode([token]),)

    def end(self) -> Iterable[str]:
        return ()


class StripText:
    """Characters dropped from both ends of the text."""

    def __init__(self, spec: Spec) -> None:
        self._mark = spec["content"]
        self._start, self._stop = spec["start"], spec["stop"]
        self._held = ""

    def push(self, token: str) -> Iterable[str]:
        text = self._held + token
        kept = text.lstrip(self._mark)
        dropped = min(self._start, len(text) - len(kept))
        self._start = 0 if kept else self._start - dropped
        text = text[dropped:]
        held = min(self._stop, len(text) - len(text.rstrip(self._mark)))
        end = len(text) - held
        self._held = text[end:]
        return (text[:end],)

    def end(self) -> Iterable[str]:
        return ()


class ReplaceText:
    """A string replaced wherever it is in the text."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern = pattern
        self._content = content
        self._held = ""

    def push(self, token: str) -> Iterable[str]:
        *before, last = (self._held + token).split(self._pattern)
        most = min(len(self._pattern) - 1, len(last))
        held = next(
            n for n in range(most, -1, -1) if self._pattern.startswith(last[len(last) - n :])
        )
        end = len(last) - held
        self._held = last[end:]
        return (self._content.join([*before, last[:end]]),)

    def end(self) -> Iterable[str]:
        return (self._held,)


class StartRule:
    """A pattern that is replaced at the start of the text alone."""

    def __init__(self, spec: Spec) -> None:
        self._decode = library_step(spec)
        rule = re.sub(_OPENING, "", spec["pattern"]["Regex"].removeprefix(r"\A"))
        self._reach = max(1, len(re.findall(_CHARACTER, rule)))
        self._head = ""
        self._passed = False

    def push(self, token: str) -> Iterable[str]:
        if self._passed:
            return (token,)
        self._head += token
        self._passed = len(self._head) >= self._reach
        return (self._decode([self._head]),) if self._passed else ()

    def end(self) -> Iterable[str]:
        return () if self._passed else (self._decode([self._head]),)


class Whole:
    """A rule about the whole text: nothing is certain before the end."""

    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._tokens: list[str] = []

    def __copy__(self) -> Whole:
        twin = Whole(self._decode)
        twin._tokens = self._tokens.copy()
        return twin

    def push(self, token: str) -> Iterable[str]:
        self._tokens.append(token)
        return ()

    def end(self) -> Iterable[str]:
        return (self._decode(self._tokens),)
