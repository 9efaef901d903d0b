"""The bytes of a token are what it adds to a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_fallback, byte_level, end_of_word, unigram, word_piece
from tokenizers import AddedToken, Tokenizer, decoders

from protos.vocabulary.token_bytes import TokenBytes

BYTE_LEVEL = byte_level()
BYTE_FALLBACK = byte_fallback()


@given(st.text())
def test_byte_level_tokens_laid_end_to_end_are_the_text(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    spelled = TokenBytes(BYTE_LEVEL)
    assert b"".join(map(spelled.of, ids)) == text.encode()


@given(st.text(alphabet="adghot ,.é世🌍\n"))
def test_byte_fallback_tokens_are_the_text_with_the_space_that_encoding_put_before(
    text: str,
) -> None:
    ids = BYTE_FALLBACK.encode(text, add_special_tokens=False).ids
    spelled = b"".join(map(TokenBytes(BYTE_FALLBACK).of, ids))
    assert spelled.decode() in (text, f" {text}")


@pytest.mark.parametrize(
    ("tokenizer", "exact", "spaces"),
    [(BYTE_LEVEL, True, 0), (BYTE_FALLBACK, True, 1), (word_piece(), False, 0)],
)
def test_knows_whether_a_text_is_its_tokens(tokenizer, exact: bool, spaces: int) -> None:
    assert (TokenBytes(tokenizer).exact, TokenBytes(tokenizer).lead_spaces) == (exact, spaces)


def test_a_metaspace_decoder_drops_the_spaces_at_the_start() -> None:
    tokenizer = unigram()
    spelled = TokenBytes(tokenizer)
    assert spelled.exact
    assert spelled.lead_spaces > 100
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    assert TokenBytes(tokenizer).lead_spaces == 0


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.BPEDecoder(),
        decoders.Strip(content=" ", left=1, right=0),  # of each token, for want of Fuse
        decoders.Sequence([decoders.Fuse(), decoders.Strip(content=" ", left=0, right=1)]),
        decoders.Sequence([decoders.Replace("a", "b")]),
        decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()]),  # of all tokens as one
        decoders.Sequence([decoders.Fuse(), decoders.Strip(content=" ", left=2, right=0)]),
    ],
)
def test_a_decoder_that_changes_more_than_spelling_is_not_exact(decoder) -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoder
    assert not TokenBytes(tokenizer).exact


def test_a_tokenizer_without_decoder_is_not_exact() -> None:
    tokenizer = word_piece()
    tokenizer.decoder = None
    assert not TokenBytes(tokenizer).exact


def with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Give it tokens with the marks that decoders undo, special ones and others."""
    plain = ["▁▁▁", "<0x0A>", "ein Wört", "ß", "Ġx", "##y", "y</w>", "▁z"]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    tokenizer.add_tokens([AddedToken("▁norm▁", normalized=True)])
    tokenizer.add_special_tokens(["▁<PRE>", "<|Ġ|>"])
    return tokenizer


MADE = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": unigram,
    "word piece": word_piece,
    "end of word": end_of_word,
}


@pytest.mark.parametrize("name", MADE)
def test_the_bytes_of_each_id_are_what_it_adds_inside_a_text(name: str) -> None:
    tokenizer = with_added_tokens(MADE[name]())
    spelled = TokenBytes(tokenizer)
    before, after = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    start = len(tokenizer.decode([before], skip_special_tokens=False))
    end = len(tokenizer.decode([before, after], skip_special_tokens=False)) - start
    for id_ in range(len(spelled)):
        if id_ not in (before, after):
            text = tokenizer.decode([before, id_, after], skip_special_tokens=False)
            assert spelled.of(id_).decode(errors="replace") == text[start : len(text) - end]


def test_added_tokens_take_the_decoders_steps() -> None:
    tokenizer = with_added_tokens(byte_fallback())
    spelled = TokenBytes(tokenizer)
    assert spelled.of(tokenizer.token_to_id("▁▁▁")) == b"   "
    assert spelled.of(tokenizer.token_to_id("▁<PRE>")) == b" <PRE>"


def test_a_byte_that_is_spelled_between_other_steps_is_that_byte() -> None:
    tokenizer = byte_fallback()
    decoder = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]
    tokenizer.decoder = decoders.Sequence(decoder)
    spelled = TokenBytes(tokenizer)
    assert not spelled.exact
    assert spelled.of(tokenizer.token_to_id("<0xE4>")) == b"\xe4"
    assert spelled.of(tokenizer.token_to_id("▁the")) == b" the"


@pytest.mark.parametrize("token", ["a▁b", "▁ a", " a"])
def test_a_first_token_that_loses_more_or_less_than_its_lead_spaces_is_not_exact(
    token: str,
) -> None:
    tokenizer = unigram()
    tokenizer.add_tokens([AddedToken(token, normalized=False)])
    assert not TokenBytes(tokenizer).exact


def test_only_special_tokens_are_special() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["plain"])
    assert TokenBytes(tokenizer).special_ids == {0, 1, 2, 3}


def test_ids_without_a_token_have_no_bytes() -> None:
    spelled = TokenBytes(BYTE_LEVEL)
    assert len(spelled) == BYTE_LEVEL.get_vocab_size()
    assert spelled.of(len(spelled)) == b""


def test_a_byte_spelling_is_literal_where_the_decoder_has_no_byte_fallback() -> None:
    tokenizer = byte_fallback()
    tokenizer.decoder = decoders.Metaspace()
    assert TokenBytes(tokenizer).of(tokenizer.token_to_id("<0x0A>")) == b"<0x0A>"
    assert TokenBytes(BYTE_FALLBACK).of(BYTE_FALLBACK.token_to_id("<0x0A>")) == b"\n"
