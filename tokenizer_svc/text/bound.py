"""The bytes of text that one id can stand for.

The bound is for refusing texts unread, so it must hold for every text: where anything may drop
text, or shrink it without bound, there is none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from tokenizer_svc.text.rules import Step, steps_of

# Normal forms of Unicode take at most so many bytes for one of theirs (a digit of four bytes
# becomes one of ASCII).
_SHRINKAGE = 4
_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}
_KEEPING = {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation"}


def most_bytes_per_id(tokenizer: Tokenizer, tokens: Collection[str]) -> int:
    """Bound the bytes of text that one id stands for.

    Args:
        tokenizer: to bound texts for.
        tokens: of its model.

    Returns:
        The bound; 0 where there is none.
    """
    spellings = list(steps_of(tokenizer.normalizer))
    splits = list(steps_of(tokenizer.pre_tokenizer))
    added = tokenizer.get_added_tokens_decoder().values()
    if not all(map(_keeps_length, spellings)) or not all(map(_keeps_text, splits)):
        return 0
    if any(token.lstrip or token.rstrip for token in added):
        return 0
    byte_level = any(step["type"] == "ByteLevel" for step in splits)
    if not _tells_characters_apart(tokenizer, byte_level):
        return 0
    longest = max(map(len, tokens if byte_level else map(str.encode, tokens)), default=0)
    longest = max(longest, 4, *(_size(token.content) for token in added))
    shrinks = any(step["type"] in _FORMS for step in spellings)
    return longest * (_SHRINKAGE if shrinks else 1)


def _size(text: str) -> int:
    return len(text.encode())


def _keeps_length(step: Step) -> bool:
    if step["type"] == "Replace":
        pattern = step["pattern"].get("String")
        return pattern is not None and _size(step["content"]) >= _size(pattern)
    return step["type"] in _FORMS or step["type"] == "Prepend"


def _keeps_text(step: Step) -> bool:
    return step["type"] in _KEEPING and step.get("behavior") != "Removed"


def _tells_characters_apart(tokenizer: Tokenizer, byte_level: bool) -> bool:
    """True if each character that no token holds has one or several ids of its own."""
    model: Any = tokenizer.model
    kind = type(model).__name__
    has = tokenizer.token_to_id
    if kind == "BPE" and byte_level:
        return all(has(character) is not None for character in pre_tokenizers.ByteLevel.alphabet())
    if kind == "BPE" and model.byte_fallback:
        return all(has(f"<0x{byte:02X}>") is not None for byte in range(256))
    if kind == "BPE" and model.unk_token is not None and not model.fuse_unk:
        return has(model.unk_token) is not None
    return False
