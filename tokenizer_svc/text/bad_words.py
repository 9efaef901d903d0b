"""Bad words: the sequences of ids that words are written with."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

# What a word may follow without a space, and does not share a token with.
_BEFORE = ("\n", "(")


def spellings(
    encode: Callable[[str], array[int]], words: Sequence[str], between: Callable[[], None]
) -> list[array[int]]:
    """Encode words as they stand in a text: after a space, at its start and after other signs.

    A word is taken without the spaces before it, as both forms are meant.

    Args:
        encode: gives the ids of a text, without special tokens.
        words: to encode; an empty one has no ids.
        between: called between words; what it raises ends the work.

    Returns:
        The distinct sequences, none of them empty.
    """
    found: dict[bytes, array[int]] = {}
    before = {text: encode(text) for text in _BEFORE} if words else {}
    for word in filter(None, words):
        between()
        bare = word.lstrip(" ") or word
        forms = [encode(bare), encode(f" {bare}"), _after(encode, before, bare)]
        found.update((ids.tobytes(), ids) for ids in forms if ids)
    return list(found.values())


def _after(
    encode: Callable[[str], array[int]], before: dict[str, array[int]], word: str
) -> array[int]:
    """The ids of a word that follows another sign, where it has ids of its own there."""
    for text, ids in before.items():
        both = encode(text + word)
        if ids and both[: len(ids)] == ids:
            return both[len(ids) :]
    return array("i")
