"""A checkpoint's vocabulary, and the bytes that each token stands for inside a text.

Where `exact` holds, the bytes of a text's tokens laid end to end are the text: such a vocabulary
can be decoded token by token with nothing but this table and UTF-8.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of each token id below its length.

    Attributes:
        exact: a text is its tokens' bytes laid end to end, but for `lead_spaces`.
        lead_spaces: how many spaces at most a text loses at the start of its first token.
        special_ids: ids that are left out of a text where special tokens are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self._size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        steps = list(_steps(tokenizer))
        kinds = [step["type"] for step in steps]
        self._byte_level = [kind for kind in kinds if kind != "Fuse"] == ["ByteLevel"]
        self._byte_fallback = "ByteFallback" in kinds
        self._spaces = [mark for step in steps if (mark := _space_mark(step))]
        self.lead_spaces = max((_lead_spaces(step) for step in steps), default=0)
        self.exact = self._byte_level or (bool(steps) and _only_respells(steps))

    def __len__(self) -> int:
        return self._size

    def of(self, token_id: int) -> bytes:
        """The bytes of one token; none where the vocabulary has no such id."""
        if token_id in self._added:
            return self._added[token_id]
        token = self._tokenizer.id_to_token(token_id)
        return b"" if token is None else self._spell(token)

    def _spell(self, token: str) -> bytes:
        if self._byte_level:
            return _undo_byte_alphabet(token)
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(byte[1])
        for mark in self._spaces:
            token = token.replace(mark, " ")
        return token.encode()


def _steps(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """The decoder's steps in order, as tokenizer.json spells them."""
    if tokenizer.decoder is None:
        return
    pending = [json.loads(tokenizer.decoder.__getstate__())]
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending = step["decoders"] + pending
        else:
            yield step


def _space_mark(step: dict[str, Any]) -> str | None:
    """The character that stands for a space in tokens, if `step` undoes one."""
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    if step["type"] == "Replace" and step["content"] == " ":
        pattern = step["pattern"].get("String")
        return None if pattern is None else str(pattern)
    return None


def _lead_spaces(step: dict[str, Any]) -> int:
    if step["type"] == "Metaspace":
        return 0 if step["prepend_scheme"] == "never" else sys.maxsize
    if step["type"] == "Strip" and step["content"] == " ":
        return int(step["start"])
    return 0


def _only_respells(steps: list[dict[str, Any]]) -> bool:
    """Whether each step changes tokens one by one, but for spaces at the start of the text."""
    fused = False
    for step in steps:
        kind = step["type"]
        fused = fused or kind == "Fuse"
        stripped = kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0
        if not (stripped or kind in ("ByteFallback", "Fuse") or _space_mark(step)):
            return False
    return True


def _byte_alphabet() -> dict[int, int]:
    """Map the characters that byte-level BPE writes for bytes to those bytes.

    A printable Latin-1 character stands for its own code; the other bytes are, in order, the
    characters from U+0100 on. Characters that stand for no byte map outside Latin-1.

    Source: GPT-2's `bytes_to_unicode`.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    codes = dict.fromkeys(others, 0xFFFD)
    codes.update({0x100 + i: byte for i, byte in enumerate(others)})
    return codes


_BYTE_ALPHABET = _byte_alphabet()


def _undo_byte_alphabet(token: str) -> bytes:
    try:
        return token.translate(_BYTE_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:  # not of the alphabet: the decoder takes such a token as it is
        return token.encode()
