"""A checkpoint's vocabulary, and the bytes that each token stands for inside a text.

Where `exact` holds, the bytes of a text's tokens laid end to end are the text: such a vocabulary
can be decoded token by token with nothing but this table and UTF-8.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterable

from tokenizers import Tokenizer

from protos.vocabulary.byte_tokens import BYTE_TOKEN, undo_byte_alphabet
from protos.vocabulary.decoder_steps import DecoderSteps, list_specs
from protos.vocabulary.fused_text import Spec

# Decoders that spell tokens one by one; each step is a letter of `_letter`.
_EXACT = re.compile(r"LF*|MF*|(?=.)R*B?(?:F+S?)?")
# Tokens to put another between; two of them, for what is there twice may be said once.
_NEIGHBOURS = ("x", "z"), ("y", "w")


class TokenBytes:
    """The bytes of each token id below its length.

    They are the text that the tokenizer's decoder gives for the token inside a text. Added tokens
    are no exception: the library applies the decoder's steps to them too.

    Attributes:
        exact: a text is its tokens' bytes laid end to end, but for `lead_spaces`.
        lead_spaces: how many spaces at most a text loses at the start of its first token.
        byte_ids: ids that stand for a byte each by their spelling, as `<0x0A>`.
        special_ids: ids that are left out of a text where special tokens are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._steps = DecoderSteps.of(tokenizer)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._size = max(vocabulary.values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        specs = list_specs(tokenizer)
        kinds = "".join(map(_letter, specs))
        self._byte_level = kinds.startswith("L")
        self._marks = [mark for spec in specs if (mark := _space_mark(spec))]
        self.lead_spaces = max(map(_lead_spaces, specs), default=0)
        self.exact = _EXACT.fullmatch(kinds) is not None
        if self.exact and kinds.startswith("M") and self.lead_spaces:
            self.exact = _marks_lead(self._marks[0], vocabulary)
        self.byte_ids: frozenset[int] = frozenset()
        if "B" in kinds:
            bytes_ = filter(BYTE_TOKEN.fullmatch, vocabulary)
            self.byte_ids = frozenset(vocabulary[token] for token in bytes_)

    def __len__(self) -> int:
        return self._size

    def of(self, token_id: int) -> bytes:
        """The bytes of one token; none where the vocabulary has no such id."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.byte_ids:
            return bytes.fromhex(token[3:5])
        if self._byte_level:
            piece = undo_byte_alphabet(token)
            if self.exact or not _is_text(piece):
                return piece
        return (self._respell(token) if self.exact else self._spell_between(token)).encode()

    def _respell(self, token: str) -> str:
        for mark in self._marks:
            token = token.replace(mark, " ")
        return token

    def _spell_between(self, token: str) -> str:
        """Text that `token` adds to that of two others when it stands between them."""
        before, after = next(pair for pair in _NEIGHBOURS if token not in pair)
        text = self._decode(before, token, after)
        start = len(self._decode(before))
        return text[start : len(text) - len(self._decode(before, after)) + start]

    def _decode(self, *tokens: str) -> str:
        steps = copy.copy(self._steps)
        return "".join(map(steps.push, tokens)) + steps.held()


def _letter(spec: Spec) -> str:
    """Name a step: Fuse, ByteLevel, ByteFallback, Metaspace, Replace, Strip, or any other."""
    kind = spec["type"]
    if kind in ("Replace", "Metaspace"):
        return kind[0] if _space_mark(spec) else "?"
    if kind == "Strip":
        return "S" if (spec["content"], spec["stop"]) == (" ", 0) and spec["start"] <= 1 else "?"
    return {"Fuse": "F", "ByteLevel": "L", "ByteFallback": "B"}.get(kind, "?")


def _space_mark(spec: Spec) -> str | None:
    """The string that stands for a space in tokens, if the step undoes one."""
    if spec["type"] == "Metaspace":
        return str(spec["replacement"])
    if spec["type"] == "Replace" and spec["content"] == " ":
        return spec["pattern"].get("String") or None
    return None


def _lead_spaces(spec: Spec) -> int:
    if spec["type"] == "Metaspace":
        return 0 if spec["prepend_scheme"] == "never" else sys.maxsize
    if spec["type"] == "Strip" and spec["content"] == " ":
        return int(spec["start"])
    return 0


def _marks_lead(mark: str, vocabulary: Iterable[str]) -> bool:
    """True if a text loses just the lead spaces of its first token, for every token."""
    return all(
        token.replace(mark, "") == token.replace(mark, " ").lstrip(" ") for token in vocabulary
    )


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
