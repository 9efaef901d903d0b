"""Ids to text, token by token.

All that the decoders give, with what they still hold at the end, is the text of all ids at once
with the context before them. Each step costs what is new, not what has been.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from encodings.utf_8 import IncrementalDecoder as Utf8Decoder
from typing import Protocol

from tokenizers import Tokenizer

from detokenizer_svc.stops import SpecialNames
from protos.vocabulary.byte_tokens import REPLACEMENT
from protos.vocabulary.decoder_steps import DecoderSteps
from protos.vocabulary.token_bytes import TokenBytes


class IncrementalDecoder(Protocol):
    """The text of one sequence of ids."""

    def feed(self, token_id: int) -> str:
        """Process an id; return the text that is now final."""
        ...

    def held(self) -> str:
        """The text that is held back, if nothing more comes."""
        ...


@dataclass(frozen=True, slots=True)
class _Table:
    """Tokens by id.

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


class Vocabulary:
    """Bytes and names of the tokens; shared by all decoders.

    Attributes:
        pieces: the bytes of each id.
        special_names: special tokens by their content, and by their text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        token_bytes = TokenBytes(tokenizer)
        self._token = tokenizer.id_to_token
        self._steps = DecoderSteps.of(tokenizer)
        self._exact = token_bytes.exact
        self._lead_spaces = token_bytes.lead_spaces
        self._special_ids = token_bytes.special_ids
        self._byte_ids = token_bytes.byte_ids
        self.pieces = [token_bytes.of(token_id) for token_id in range(len(token_bytes))]
        self.special_names = SpecialNames(self._name_specials())
        visible = [
            b"" if token_id in self._special_ids else piece
            for token_id, piece in enumerate(self.pieces)
        ]
        self._tables = {True: _Table.of(visible), False: _Table.of(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def _name_specials(self) -> Iterator[tuple[str, int]]:
        ids = sorted(self._special_ids)
        yield from ((self._token(token_id) or "", token_id) for token_id in ids)
        for token_id in ids:
            text = self.pieces[token_id].decode(errors="replace")
            yield from ((text, token_id), (text.strip(" "), token_id))

    def piece(self, token_id: int) -> bytes:
        """The bytes of one id; a vocabulary's padding has none."""
        return self.pieces[token_id] if token_id < len(self.pieces) else b""

    def decoder(self, context: Sequence[int], *, skip_special: bool) -> IncrementalDecoder:
        """Begin to decode the ids that follow `context`.

        Args:
            context: the last ids before them, enough to hold a visible one if there is any.
            skip_special: whether special tokens are left out of the text.
        """
        if not self._exact:
            hidden = self._special_ids if skip_special else ()
            return _StepDecoder(self._token, copy.copy(self._steps), context, hidden)
        table = self._tables[skip_special]
        if self._byte_ids:
            return _RunDecoder(table, context, self._lead_spaces, self._byte_ids)
        return _ByteDecoder(table, context, self._lead_spaces)

    def decode(self, token_ids: Sequence[int], *, skip_special: bool) -> str:
        """The text of all ids at once."""
        decoder = self.decoder((), skip_special=skip_special)
        return "".join(map(decoder.feed, token_ids)) + decoder.held()


class _ByteDecoder:
    """Lays the bytes of tokens end to end.

    A character belongs to the token that completes it, or that shows that it never will.
    """

    __slots__ = ("_lead_spaces", "_partial", "_table", "_utf8")

    _errors = "replace"

    def __init__(self, table: _Table, context: Sequence[int], lead_spaces: int) -> None:
        self._table = table
        self._utf8 = Utf8Decoder(errors=self._errors)
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
            text = self._join(token_id)
        if self._lead_spaces and (text or self._partial):
            text = text[self._count_lead(text) :]
            self._lead_spaces = 0
        return text

    def held(self) -> str:
        return self._utf8.buffer.decode(errors="replace")

    def _join(self, token_id: int) -> str:
        """The text that an id gives which is part of a character, or comes after such a part."""
        text = self._utf8.decode(self._table.pieces[token_id])
        self._partial = bool(self._utf8.buffer)
        return text

    def _count_lead(self, text: str) -> int:
        return min(self._lead_spaces, len(text) - len(text.lstrip(" ")))


class _RunDecoder(_ByteDecoder):
    """Lays the bytes of tokens end to end where byte tokens side by side are a run.

    Whole characters are said as they come. From there on, a run that becomes no text is a U+FFFD
    for each of its bytes, as the library makes it.
    """

    __slots__ = ("_broken", "_byte_ids")

    _errors = "strict"

    def __init__(
        self, table: _Table, context: Sequence[int], lead_spaces: int, byte_ids: Collection[int]
    ) -> None:
        self._broken = False
        self._byte_ids = byte_ids
        super().__init__(table, context, lead_spaces)

    def held(self) -> str:
        return REPLACEMENT * len(self._utf8.buffer)

    def _join(self, token_id: int) -> str:
        text = self._table.texts[token_id]
        if text == "":  # it is left out, and parts no run
            return text
        if text is not None and token_id not in self._byte_ids:
            return self._end_run() + text
        if self._broken:
            return REPLACEMENT
        try:
            text = self._utf8.decode(self._table.pieces[token_id])
            self._partial = bool(self._utf8.buffer)
        except UnicodeDecodeError:
            text = self._end_run() + REPLACEMENT
            self._partial = self._broken = True
        return text

    def _end_run(self) -> str:
        held = self.held()
        self._utf8.reset()
        self._partial = self._broken = False
        return held


class _StepDecoder:
    """Applies the decoder's steps, which may join tokens by rules of their own."""

    __slots__ = ("_hidden", "_said", "_steps", "_token")

    def __init__(
        self,
        token: Callable[[int], str | None],
        steps: DecoderSteps,
        context: Sequence[int],
        hidden: Collection[int],
    ) -> None:
        self._token = token
        self._steps = steps
        self._hidden = hidden
        self._said = ""
        for token_id in context:
            self.feed(token_id)
        self._said = steps.held()  # the context's text has it already

    def feed(self, token_id: int) -> str:
        token = None if token_id in self._hidden else self._token(token_id)
        if token is None:
            return ""
        text = self._steps.push(token)
        if self._said and text:
            known = self._known(text)
            self._said = self._said[known:] if known == len(text) else ""
            return text[known:]
        return text

    def held(self) -> str:
        text = self._steps.held()
        return text[self._known(text) :]

    def _known(self, text: str) -> int:
        """Count the characters of `text` that the context has already."""
        alike = zip(self._said, text, strict=False)
        return next(
            (i for i, (said, new) in enumerate(alike) if said != new),
            min(len(self._said), len(text)),
        )
