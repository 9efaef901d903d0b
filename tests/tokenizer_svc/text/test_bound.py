"""No text has more bytes for an id than the bound, where there is one."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_fallback, byte_level, prepending, unigram, word_piece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tokenizer_svc.text import bound

DEMO = Path(__file__).resolve().parents[3] / "models/demo/tokenizer.json"


def most_bytes_per_id(tokenizer: Tokenizer) -> int:
    return bound.most_bytes_per_id(tokenizer, tokenizer.get_vocab(with_added_tokens=False))


def normalizing(*steps: object) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence(list(steps))
    return tokenizer


def splitting(step: object) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([step, tokenizer.pre_tokenizer])
    return tokenizer


def adding(content: str, **flags: bool) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(content, **flags)])
    return tokenizer


def characters(*, fuse_unk: bool) -> Tokenizer:
    model = models.BPE({"?": 0, "a": 1, "abc": 2}, [], unk_token="?", fuse_unk=fuse_unk)
    return Tokenizer(model)


BOUNDED: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "Llama 2": prepending,
    "NFC": lambda: normalizing(normalizers.NFC()),
    "NFKC": lambda: normalizing(normalizers.NFKC()),
    "a long added token": lambda: adding("<" + 70 * "é" + ">"),
    "an unknown token each": lambda: characters(fuse_unk=False),
    "demo": lambda: Tokenizer.from_file(str(DEMO)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_more_bytes_an_id(name: str) -> None:
    tokenizer = BOUNDED[name]()
    most = most_bytes_per_id(tokenizer)
    assert most > 0
    long = ["the dog ", "\u212a", "\u0390", "\U0001fbf9", "e\u0301", "<" + 70 * "é" + ">", " " * 99]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.one_of(st.text(max_size=3), st.sampled_from(long)), max_size=20))
    def check(parts: list[str]) -> None:
        text = "".join(parts)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert len(text.encode()) <= most * len(ids)

    check()


@pytest.mark.parametrize(
    ("make", "most"),
    [(lambda: characters(fuse_unk=False), 4), (lambda: adding("x" * 70), 70)],
)
def test_the_bound_is_the_longest_token(make: Callable[[], Tokenizer], most: int) -> None:
    assert most_bytes_per_id(make()) == most


@pytest.mark.parametrize(
    "make",
    [
        unigram,  # unknown characters become one token
        word_piece,  # an unknown word does
        lambda: characters(fuse_unk=True),
        lambda: Tokenizer(models.BPE({"a": 0}, [])),  # drops what it lacks
        lambda: Tokenizer(models.BPE({"a": 0}, [], byte_fallback=True)),  # lacks the bytes
        lambda: adding("<x>", rstrip=True),
        lambda: adding("<x>", lstrip=True),
        lambda: normalizing(normalizers.Strip()),
        lambda: normalizing(normalizers.StripAccents()),
        lambda: normalizing(normalizers.Replace("  ", " ")),
        lambda: normalizing(normalizers.Replace("x", "")),
        lambda: normalizing(normalizers.Replace(Regex(" +"), " ")),
        lambda: splitting(pre_tokenizers.Whitespace()),
        lambda: splitting(pre_tokenizers.Split(" ", "removed")),
        lambda: splitting(pre_tokenizers.Punctuation("removed")),
        lambda: splitting(pre_tokenizers.CharDelimiterSplit("x")),
    ],
)
def test_there_is_no_bound_where_text_may_vanish(make: Callable[[], Tokenizer]) -> None:
    assert most_bytes_per_id(make()) == 0


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_are_at_least_a_quarter_of_a_text(form: str) -> None:
    """Each composed character is taken by its parts in their longest spellings."""
    decomposed = form.replace("C", "D") if "K" not in form else "NFKD"
    named = [c for c in map(chr, range(0x110000)) if unicodedata.decomposition(c)]
    longest: dict[str, int] = {}
    for character in named:
        single = unicodedata.normalize(decomposed, character)
        longest[single] = max(longest.get(single, 0), len(character.encode()))
    for character in named:
        parts = unicodedata.normalize(decomposed, character)
        size = sum(max(longest.get(part, 0), len(part.encode())) for part in parts)
        size = max(size, len(character.encode()))
        assert size <= 4 * len(unicodedata.normalize(form, character).encode())
