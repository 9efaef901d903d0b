"""Ids to text, token by token.

All that the decoders give, with what they still hold at the end, is the text of all ids at once
with the context before them. Each step costs what is new, not what has been.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from protos.token_bytes import TokenBytes

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Ids at most that wait for the rest of a character, or for any text; a character has four bytes.
_MOST_HELD_IDS = 4
_CONTEXT_IDS = 8

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Decoder(Protocol):
    """The text of one sequence of ids."""

    def feed(self, token_id: int) -> str:
        """What can be said of the text now that `token_id` has come."""
        ...

    def held(self) -> str:
        """The text that is held back, if nothing more comes."""
        ...


@dataclass(frozen=True, slots=True)
class _Table:
    """Spelling by id.

    Attributes:
        pieces: the bytes of each id.
        texts: the same as text, or None where the bytes are not whole characters.
    """

    pieces: Sequence[bytes]
    texts: Sequence[str | None]

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> _Table:
        return cls(pieces, [_whole_characters(piece) for piece in pieces])


def _whole_characters(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


class Spelling:
    """How a vocabulary is spelled; shared by all decoders.

    Attributes:
        pieces: the bytes of each id.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        token_bytes = TokenBytes(tokenizer)
        self._tokenizer = tokenizer
        self._exact = token_bytes.exact
        self._lead_spaces = token_bytes.lead_spaces
        self._special_ids = token_bytes.special_ids
        self.pieces = [token_bytes.of(token_id) for token_id in range(len(token_bytes))]
        visible = [
            b"" if token_id in self._special_ids else piece
            for token_id, piece in enumerate(self.pieces)
        ]
        self._tables = {True: _Table.of(visible), False: _Table.of(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def piece(self, token_id: int) -> bytes:
        """The bytes of one id; a vocabulary's padding has none."""
        return self.pieces[token_id] if token_id < len(self.pieces) else b""

    def decoder(self, context: Sequence[int], *, skip_special: bool) -> Decoder:
        """Begin to decode the ids that follow `context`.

        Args:
            context: the last ids before them, enough to hold a visible one if there is any.
            skip_special: whether special tokens are left out of the text.
        """
        if self._exact:
            return _ByteDecoder(self._tables[skip_special], context, self._lead_spaces)
        shown = self._shown(context, skip_special=skip_special)
        return _WindowDecoder(self._tokenizer, shown, self._hidden(skip_special), len(self))

    def decode(self, token_ids: Sequence[int], *, skip_special: bool) -> str:
        """The text of all ids at once."""
        if not self._exact:
            shown = self._shown(token_ids, skip_special=skip_special)
            return str(self._tokenizer.decode(shown, skip_special_tokens=False))
        decoder = self.decoder((), skip_special=skip_special)
        return "".join(map(decoder.feed, token_ids)) + decoder.held()

    def _hidden(self, skip_special: bool) -> Collection[int]:
        return self._special_ids if skip_special else ()

    def _shown(self, token_ids: Iterable[int], *, skip_special: bool) -> list[int]:
        hidden = self._hidden(skip_special)
        return [id_ for id_ in token_ids if id_ < len(self) and id_ not in hidden]


class _ByteDecoder:
    """Lays the bytes of tokens end to end.

    A character belongs to the token that completes it, or that shows that it never will.
    """

    __slots__ = ("_lead_spaces", "_partial", "_table", "_utf8")

    def __init__(self, table: _Table, context: Sequence[int], lead_spaces: int) -> None:
        self._table = table
        self._utf8 = _Utf8Decoder(errors="replace")
        self._partial = False
        self._lead_spaces = 0
        for token_id in context:
            self.feed(token_id)
        size = len(table.pieces)
        if not any(table.pieces[token_id] for token_id in context if token_id < size):
            self._lead_spaces = lead_spaces

    def feed(self, token_id: int) -> str:
        if token_id >= len(self._table.texts):
            return ""
        text = self._table.texts[token_id]
        if text is None or self._partial:
            text = self._utf8.decode(self._table.pieces[token_id])
            self._partial = bool(self._utf8.getstate()[0])
        if self._lead_spaces and (text or self._partial):
            text = text[self._count_lead(text) :]
            self._lead_spaces = 0
        return text

    def held(self) -> str:
        return self._utf8.getstate()[0].decode(errors="replace")

    def _count_lead(self, text: str) -> int:
        return min(self._lead_spaces, len(text) - len(text.lstrip(" ")))


class _WindowDecoder:
    """Decodes a few ids with and without the newest; the difference is the newest's text.

    For decoders that join tokens by rules of their own. The ids before the newest are those whose
    text came last: they decide how the newest is spelled.
    """

    __slots__ = ("_before", "_hidden", "_ids", "_known", "_size", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer, context: list[int], hidden: Collection[int], size: int
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._size = size
        self._ids = context[-_CONTEXT_IDS:]
        self._known = len(self._ids)  # the first so many ids are in `_before`
        self._before = self._decode()

    def feed(self, token_id: int) -> str:
        if token_id >= self._size or token_id in self._hidden:
            return ""
        self._ids.append(token_id)
        text = self._decode()
        told = len(text) > len(self._before) and not text.endswith(_REPLACEMENT)
        if not told and len(self._ids) - self._known < _MOST_HELD_IDS:
            return ""
        fresh = text[len(self._before) :]
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        self._before = self._decode()
        return fresh

    def held(self) -> str:
        return self._decode()[len(self._before) :]

    def _decode(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=False))
