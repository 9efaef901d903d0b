"""A long text is encoded in pieces, as far as it is needed, to the ids of the whole."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from unittest import mock

import pytest
from support.tiny_tokenizers import byte_level, end_of_word, prepending, unigram, word_piece
from tokenizers import Tokenizer, models, normalizers, processors

from chassis.errors import InvalidRequest
from tokenizer_svc.text.text_encoder import PIECE_CHARACTERS, TextEncoder, Wanted

LONG = "The quick brown fox jumps over the lazy dog, x = 1; " * 4000
PIECES = len(LONG) // PIECE_CHARACTERS


def framed() -> Tokenizer:
    """Special tokens before and after a text."""
    tokenizer = byte_level()
    specials = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A </s>", special_tokens=specials
    )
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, **wanted: int) -> tuple[list[int], int]:
    """The ids of `text`, and how often work could have been interrupted."""
    between = mock.Mock()
    ids = TextEncoder(tokenizer).encode(text, Wanted("text", **wanted), between)
    assert isinstance(ids, array)
    return ids.tolist(), between.call_count


MAKERS = pytest.mark.parametrize("make", [framed, prepending, unigram, word_piece, end_of_word])
Maker = Callable[[], Tokenizer]


@MAKERS
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("text", ["", "the dog", LONG])
def test_gives_the_ids_of_the_whole_text(make: Maker, special: bool, text: str) -> None:
    tokenizer = make()
    whole = tokenizer.encode(text, add_special_tokens=special).ids
    assert encode(tokenizer, text, special=special)[0] == whole


@MAKERS
@pytest.mark.parametrize("last", [1, 2, 5, 20_000, 10_000_000])
@pytest.mark.parametrize("text", ["the dog", LONG])
def test_keeps_the_last_ids(make: Maker, last: int, text: str) -> None:
    tokenizer = make()
    whole = tokenizer.encode(text, add_special_tokens=True).ids
    assert encode(tokenizer, text, special=True, last=last)[0] == whole[-last:]


def test_no_more_pieces_are_encoded_than_are_kept() -> None:
    assert encode(byte_level(), LONG)[1] >= PIECES - 1
    assert encode(byte_level(), LONG, last=100)[1] == 1


def test_a_short_text_is_one_piece() -> None:
    assert encode(byte_level(), "the dog " * 1000)[1] == 0


def test_what_is_raised_between_pieces_ends_the_work() -> None:
    between = mock.Mock(side_effect=[None, KeyError])
    with pytest.raises(KeyError):
        TextEncoder(byte_level()).encode(LONG, Wanted("text"), between)


def refusal(tokenizer: Tokenizer, text: str, most: int) -> tuple[InvalidRequest, int]:
    between = mock.Mock()
    with pytest.raises(InvalidRequest) as error:
        TextEncoder(tokenizer).encode(text, Wanted("chat", special=True, most=most), between)
    return error.value, between.call_count


def test_a_short_text_of_too_many_ids_is_refused_with_both_numbers() -> None:
    count = len(framed().encode("the dog").ids)
    error, _ = refusal(framed(), "the dog", count - 1)
    assert error.field == "chat"
    assert error.description == f"the prompt has {count} tokens; at most {count - 1} fit"
    assert len(encode(framed(), "the dog", special=True, most=count)[0]) == count


def test_a_long_text_is_refused_as_soon_as_it_has_too_many_ids() -> None:
    error, pieces = refusal(unigram(), LONG, 10_000)
    assert error.description.startswith("the prompt has at least ")
    assert error.description.endswith(" tokens; at most 10000 fit")
    assert 1 <= pieces < PIECES - 1


def test_a_long_text_may_have_as_many_ids_as_fit() -> None:
    count = len(framed().encode(LONG).ids)
    assert len(encode(framed(), LONG, special=True, most=count)[0]) == count
    error, _ = refusal(framed(), LONG, count - 1)
    assert error.description == f"the prompt has {count} tokens; at most {count - 1} fit"


def test_a_text_that_cannot_fit_is_refused_unread() -> None:
    tokenizer = TextEncoder(byte_level())
    text = "a" * (10 * tokenizer.most_bytes_per_id + 1)
    with (
        mock.patch.object(tokenizer, "whole", side_effect=AssertionError),
        pytest.raises(InvalidRequest, match="at least 11 tokens; at most 10 fit"),
    ):
        tokenizer.encode(text, Wanted("text", most=10), lambda: None)


def test_a_text_that_is_shortened_is_not_refused_by_its_bytes() -> None:
    assert len(encode(byte_level(), LONG, most=10, last=10)[0]) == 10
    with pytest.raises(InvalidRequest, match="has 11 tokens; at most 10 fit"):
        encode(byte_level(), LONG, most=10, last=11)


@pytest.mark.parametrize(
    "model",
    [
        models.Unigram([("b", -1.0)], None, False),
        models.BPE({"b": 0}, [], unk_token="<unk>"),
        models.WordPiece({"b": 0}, unk_token="[UNK]"),
    ],
)
def test_a_tokenizer_that_raises_on_ordinary_text_can_be_used(model: models.Model) -> None:
    assert encode(Tokenizer(model), "b") == ([0], 0)


def test_a_template_that_drops_the_text_has_no_bound() -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    assert TextEncoder(tokenizer).most_bytes_per_id == 0
    text = LONG[: 2 * PIECE_CHARACTERS]
    assert encode(tokenizer, text, special=True)[0] == tokenizer.encode(text).ids


def test_a_normalizer_that_strips_is_not_cut() -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    text = LONG[: 2 * PIECE_CHARACTERS]
    assert encode(tokenizer, text) == (tokenizer.encode(text, add_special_tokens=False).ids, 0)
