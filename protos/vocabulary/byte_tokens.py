"""Tokens that stand for bytes: byte fallback's `<0x0A>`, and byte-level BPE's alphabet.

Each kind has a step of a decoder, as `decoder_steps` applies them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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


def undo_byte_alphabet(token: str) -> bytes:
    """The bytes of a byte-level token; one that is not of the alphabet is taken as it is."""
    try:
        return token.translate(_BYTE_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


class ByteRuns:
    """Byte tokens side by side to text, a U+FFFD for each where they are not whole characters."""

    def __init__(self) -> None:
        self._text = ""
        self._partial = b""
        self._bytes = 0
        self._broken = False

    def push(self, token: str) -> Iterable[str]:
        byte = BYTE_TOKEN.fullmatch(token)
        if byte is None:
            run = self.end()
            self._text, self._partial, self._bytes, self._broken = "", b"", 0, False
            return (*run, token)
        if self._broken:
            return (REPLACEMENT,)
        self._bytes += 1
        partial = self._partial + bytes.fromhex(byte[1])
        try:
            text, taken = codecs.utf_8_decode(partial, "strict", False)
        except UnicodeDecodeError:
            self._broken = True
            return (REPLACEMENT,) * self._bytes
        self._text += text
        self._partial = partial[taken:]
        return ()

    def end(self) -> Sequence[str]:
        if self._broken or not self._bytes:
            return ()
        return (REPLACEMENT,) * self._bytes if self._partial else (self._text,)


class ByteAlphabet:
    """Byte-level tokens to text."""

    def __init__(self) -> None:
        self._partial = b""

    def push(self, token: str) -> Iterable[str]:
        partial = self._partial + undo_byte_alphabet(token)
        text, taken = codecs.utf_8_decode(partial, "replace", False)
        self._partial = partial[taken:]
        return (text,)

    def end(self) -> Iterable[str]:
        return (self._partial.decode(errors="replace"),)
