"""Text to ids; a long text in pieces, only as many as needed.

The ids are those of the whole text, however it is cut.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from tokenizers import Tokenizer

from chassis.errors import InvalidRequest, refuse_failures
from tokenizer_svc.text.bound import most_bytes_per_id
from tokenizer_svc.text.cuts import Cuts, find_cuts
from tokenizer_svc.text.fork import Between, compute_in_fork

PIECE_CHARACTERS = 16 << 10
"""About so much is encoded at once where a text can be cut; it takes tens of milliseconds."""

_MOST_CHARACTERS = 2 * PIECE_CHARACTERS
"""Longest text without a cut that is encoded in the worker; a fork encodes longer ones."""


@dataclass(frozen=True)
class Wanted:
    """Wishes for a text's ids.

    Attributes:
        field: path of the text in the request, for errors.
        special: with the special tokens that the checkpoint puts around a text.
        most: more ids are refused; 0: no bound.
        last: the last so many are kept; 0: all.
    """

    field: str
    special: bool = False
    most: int = 0
    last: int = 0


class TextEncoder:
    """A tokenizer, and the places at which its texts can be cut.

    Attributes:
        most_bytes_per_id: bytes of text that one id stands for at most; 0: not known.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        around = _specials_around(tokenizer)
        self._around = around or (array("i"), array("i"))
        self._cuts: Cuts | None = None
        self.most_bytes_per_id = 0
        if around is not None:
            tokens = tokenizer.get_vocab(with_added_tokens=False).keys()
            self._cuts = find_cuts(tokenizer, tokens)
            self.most_bytes_per_id = most_bytes_per_id(tokenizer, tokens)

    def encode(self, text: str, wanted: Wanted, between: Between) -> array[int]:
        """Encode `text`.

        Args:
            text: the text.
            wanted: what is wanted of it.
            between: called between pieces, and while one is encoded that takes long; what it raises
                ends the work.

        Raises:
            InvalidRequest: it has more ids than are wanted.
        """
        if wanted.most and not wanted.last:
            self._refuse_by_bytes(text, wanted)
        if self._cuts is None or len(text) <= PIECE_CHARACTERS:
            ids = self._piece(text, between, special=wanted.special)
            ids = ids[-wanted.last :] if wanted.last else ids
        elif wanted.last:
            ids = self._encode_end(text, wanted, between)
        else:
            ids = self._encode_pieces(text, wanted, between)
        if wanted.most and len(ids) > wanted.most:
            raise _too_long(f"{len(ids)}", wanted)
        return ids

    def whole(self, text: str, *, special: bool = False) -> array[int]:
        """Encode `text` at once."""
        # The batch form is the one that leaves out the offsets of tokens in the text.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        return array("i", encoding.ids)

    def _piece(self, text: str, between: Between, *, special: bool = False) -> array[int]:
        """Encode `text` in one call, which cannot be interrupted: a long one in a fork."""
        if len(text) <= _MOST_CHARACTERS:
            return self.whole(text, special=special)
        return compute_in_fork(lambda: self.whole(text, special=special), between)

    def _encode_pieces(self, text: str, wanted: Wanted, between: Between) -> array[int]:
        """Encode from the start, until there are more ids than wanted."""
        before, after = self._around if wanted.special else (array("i"), array("i"))
        ids = array("i", before)
        for begin, end in self._spans(text):
            between()
            ids += self._piece(text[begin:end], between)
            if wanted.most and len(ids) + len(after) > wanted.most and end < len(text):
                raise _too_long(f"at least {len(ids) + len(after)}", wanted)
        return ids + after

    def _encode_end(self, text: str, wanted: Wanted, between: Between) -> array[int]:
        """Encode from the end, until there are all ids to keep."""
        before, after = self._around if wanted.special else (array("i"), array("i"))
        parts = [after]
        missing = wanted.last - len(after)
        for begin, end in reversed(self._spans(text)):
            if missing <= 0:
                break
            between()
            parts.append(self._piece(text[begin:end], between))
            missing -= len(parts[-1])
        ids = array("i", before)
        for part in reversed(parts):
            ids += part
        return ids[-wanted.last :]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        assert self._cuts is not None
        return self._cuts.spans(text, PIECE_CHARACTERS)

    def _refuse_by_bytes(self, text: str, wanted: Wanted) -> None:
        """Refuse a text that is too long whatever its tokens are."""
        room = wanted.most * self.most_bytes_per_id
        if room and 4 * len(text) > room and (size := len(text.encode())) > room:
            raise _too_long(f"at least {-(-size // self.most_bytes_per_id)}", wanted)


def _too_long(count: str, wanted: Wanted) -> InvalidRequest:
    return InvalidRequest(wanted.field, f"the prompt has {count} tokens; at most {wanted.most} fit")


def _specials_around(tokenizer: Tokenizer) -> tuple[array[int], array[int]] | None:
    """The ids that the checkpoint puts before and after a text; None where it does more."""
    try:
        with refuse_failures("text", "the tokenizer"):
            inside = tokenizer.encode("a", add_special_tokens=False).ids
            encoding = tokenizer.encode("a", add_special_tokens=True)
    except InvalidRequest:
        return None
    own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    begin, end = (own[0], own[-1] + 1) if own else (0, 0)
    if not inside or encoding.ids[begin:end] != inside:
        return None
    return array("i", encoding.ids[:begin]), array("i", encoding.ids[end:])
