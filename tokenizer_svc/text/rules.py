"""A tokenizer's rules of spelling and splitting a text, read from its own description.

Only what is known to look no further than a character beyond a match is read; for anything else
the answer is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

Step = dict[str, Any]

_LOCAL_NORMALIZERS = {"NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
_NEUTRAL = {"Digits", "Punctuation"}
_WORDS = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"}

_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# The alternatives of which published checkpoints make their patterns, by which of a space, a line
# end and an ideographic full stop they match alone. None matches a space after anything but white
# space, a letter or digit after a line end, or a full stop after a letter.
_ALTERNATIVES = {
    alternative: frozenset(matched.split())
    for matched, alternatives in {
        "": (
            *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
            *(_CONTRACTIONS, r"'(?i:[sdmt]|ll|ve|re)"),
            *(r"\p{L}+", r" ?\p{L}+", r" ?_*\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
            r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
            *(f"{_UPPER}*{_LOWER}+", f"{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"),
            *(f"{_UPPER}+{_LOWER}*", f"{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"),
            *(r"\p{N}", r"\p{N}+", r" ?\p{N}+", r"\p{N}{1,3}"),
            "[一-龥\u3040-ゟ\u30a0-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
            *(r"\s+(?!\S)", r"[^\S\n]+(?!\S)", r"(?<=\n)[ \t]+"),
        ),
        "stop": (
            *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"),
            *(r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", r" ?[\p{P}\p{S}]+[\r\n]*"),
        ),
        "line": (r"\s*[\r\n]+", r"\s*[\r\n]", r"\n+"),
        "space": (r"[^\S\n]+",),
        "space line": (r"\s+",),
    }.items()
    for alternative in alternatives
}
_EVERYWHERE = frozenset({"space", "line", "stop"})


@dataclass(frozen=True)
class Spelling:
    """The normalizer's effect on a text.

    Attributes:
        mark: what a space becomes.
        prepended: what goes before each text, or nothing.
        plain: letters stay what they are, but for composition.
    """

    mark: str = " "
    prepended: str = ""
    plain: bool = True

    @property
    def prepends(self) -> bool:
        """True where each text gets a mark before it."""
        return bool(self.prepended)


@dataclass(frozen=True)
class Splits:
    """Places where the pre-tokenizer always splits a text.

    Attributes:
        at: `space` before a single space between other characters, `line` after a single line end
            before a letter or digit, `stop` before an ideographic full stop after a letter.
        mark: what a space has become by then.
    """

    at: frozenset[str]
    mark: str


def steps_of(part: Any) -> Iterator[Step]:
    """Describe the steps of a normalizer or pre-tokenizer, in order, sequences unrolled."""
    if part is None:
        return
    pending = [json.loads(part.__getstate__())]
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending = [*step.get("normalizers", ()), *step.get("pretokenizers", ()), *pending]
        else:
            yield step


def read_spelling(tokenizer: Tokenizer) -> Spelling | None:
    """Read how the normalizer respells a text; None where it may reach across a space."""
    mark, prepended, plain = " ", "", True
    for step in steps_of(tokenizer.normalizer):
        kind = step["type"]
        if kind == "Prepend" and not prepended:
            prepended = step["prepend"]
        elif kind == "Replace" and _spells_space(step) and mark == " ":
            mark = step["content"]
        elif kind in _LOCAL_NORMALIZERS:
            plain = False
        elif kind != "NFC":
            return None
    return Spelling(mark, prepended, plain) if prepended in ("", mark) else None


def _spells_space(step: Step) -> bool:
    content: str = step["content"]
    return step["pattern"].get("String") == " " and len(content) == 1 and not content.isspace()


def read_splits(tokenizer: Tokenizer, spelling: Spelling) -> Splits | None:
    """Read where the pre-tokenizer always splits; None where it may join across a space.

    Once a step splits at spaces, later ones see each part alone: what they do changes nothing.
    """
    mark = spelling.mark
    steps = list(steps_of(tokenizer.pre_tokenizer))
    prefixed = any(step.get("add_prefix_space") for step in steps)
    for step in steps:
        if step["type"] == "Metaspace" and mark in (" ", step["replacement"]):
            mark = step["replacement"]
            at: frozenset[str] | None = frozenset({"space"} if step["split"] else ())
        elif mark == " ":
            at = _split_places(step)
        else:  # no space is left for a step that looks for them
            at = frozenset() if _is_split_at(step, " ") else None
        if at is None:
            return None
        if "space" in at:
            return Splits(at & {"space"} if prefixed else at, mark)
    return Splits(frozenset(), mark)


def _split_places(step: Step) -> frozenset[str] | None:
    """The places of `Splits.at` where a step on text with its spaces splits; None: not known."""
    kind = step["type"]
    if kind == "ByteLevel":
        return _EVERYWHERE if step["use_regex"] else None
    if kind in _WORDS:
        return frozenset({"space"})
    if kind in _NEUTRAL:
        return frozenset()
    if _is_split_at(step, " "):
        joined = step["behavior"] == "MergedWithPrevious" or step["invert"]
        return None if joined else frozenset({"space"})
    if kind == "Split" and "Regex" in step["pattern"]:
        return _places_of_pattern(step)
    return None


def _is_split_at(step: Step, text: str) -> bool:
    return bool(step["type"] == "Split" and step["pattern"].get("String") == text)


def _places_of_pattern(step: Step) -> frozenset[str] | None:
    """Places where a pattern splits, if each of its alternatives is known."""
    pattern = step["pattern"]["Regex"].replace("\r", r"\r").replace("\n", r"\n")
    known = [_ALTERNATIVES.get(part) for part in _alternatives_of(pattern)]
    places: frozenset[str] = frozenset().union(*(part for part in known if part is not None))
    if None in known:
        return None
    if (step["behavior"], step["invert"]) == ("Isolated", False):
        return places
    # The matches are kept and what lies between them goes, so there must be nothing between.
    kept = (step["behavior"], step["invert"]) == ("Removed", True)
    return places if kept and places == _EVERYWHERE else None


def _alternatives_of(pattern: str) -> list[str]:
    """Take a regular expression apart at each `|` outside groups and classes."""
    parts, depth, in_class = [""], 0, False
    for atom in re.findall(r"\\.|.", pattern, re.DOTALL):
        if atom == "|" and depth == 0 and not in_class:
            parts.append("")
            continue
        parts[-1] += atom
        in_class = (in_class or atom == "[") and atom != "]"
        if not in_class:
            depth += (atom == "(") - (atom == ")")
    return parts
