"""A bad word is known by all the sequences of ids that it is written with."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest
from support.tiny_tokenizers import byte_fallback, byte_level, prepending, unigram, word_piece
from tokenizers import Tokenizer

from tokenizer_svc.text.bad_words import spellings


def spell(tokenizer: Tokenizer, *words: str) -> list[list[str]]:
    def encode(text: str) -> array[int]:
        return array("i", tokenizer.encode(text, add_special_tokens=False).ids)

    found = spellings(encode, words, lambda: None)
    return [[tokenizer.id_to_token(id_) for id_ in ids] for ids in found]


def test_a_word_is_spelled_with_and_without_a_space() -> None:
    assert spell(byte_level(), "dog") == [["do", "g"], ["Ġdog"]]


@pytest.mark.parametrize("make", [byte_fallback, prepending])
def test_a_word_inside_a_text_is_spelled_without_the_space_that_begins_one(
    make: Callable[[], Tokenizer],
) -> None:
    found = spell(make(), "dog")
    assert ["▁", "dog"] in found
    assert ["dog"] in found


def test_spaces_before_a_word_make_no_difference() -> None:
    assert spell(byte_level(), " dog") == spell(byte_level(), "dog")


def test_each_sequence_is_told_once() -> None:
    assert spell(byte_level(), "dog", "dog", "  dog") == spell(byte_level(), "dog")
    assert spell(word_piece(), "dog") == [["dog"]]


@pytest.mark.parametrize("make", [byte_level, prepending, unigram, word_piece])
def test_no_sequence_is_empty(make: Callable[[], Tokenizer]) -> None:
    assert all(spell(make(), "", " ", "\n", "dog", "\u200b", "世"))
    assert spell(make(), "") == spell(make()) == []
