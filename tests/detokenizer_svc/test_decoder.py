"""Text given token by token is the text of all ids at once, with the context before them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import byte_fallback, byte_level, end_of_word, unigram, word_piece

from detokenizer_svc.decoder import Spelling

BYTE_LEVEL = byte_level()
BYTE_FALLBACK = byte_fallback()
UNIGRAM = unigram()
WORD_PIECE = word_piece()


END_OF_WORD = end_of_word()
JOINED_BY_SPACES = word_piece()
JOINED_BY_SPACES.decoder = None
SPELLINGS = {
    "byte level": (BYTE_LEVEL, Spelling(BYTE_LEVEL)),
    "byte fallback": (BYTE_FALLBACK, Spelling(BYTE_FALLBACK)),
    "metaspace": (UNIGRAM, Spelling(UNIGRAM)),
    "word piece": (WORD_PIECE, Spelling(WORD_PIECE)),
    "joined by spaces": (JOINED_BY_SPACES, Spelling(JOINED_BY_SPACES)),
    "end of word": (END_OF_WORD, Spelling(END_OF_WORD)),
}
WRITTEN = st.text(
    st.one_of(
        st.sampled_from("the quick dog,.\n"),
        st.characters(codec="utf-8"),
        st.sampled_from("🌍👩‍👩‍👧世界é̈한"),
    )
)
FLAGS = st.booleans()


def step_by_step(
    spelling: Spelling, ids: Sequence[int], *, context: Sequence[int] = (), skip: bool = True
) -> str:
    decoder = spelling.decoder(context, skip_special=skip)
    return "".join(map(decoder.feed, ids)) + decoder.held()


def pieces_of(spelling: Spelling, ids: Sequence[int], special: frozenset[int]) -> bytes:
    return b"".join(spelling.piece(id_) for id_ in ids if id_ not in special)


@pytest.mark.parametrize("name", ["byte level", "byte fallback"])
@given(text=WRITTEN, data=st.data(), skip=FLAGS)
def test_written_text_comes_back_wherever_the_prompt_ends(
    name: str, text: str, data: st.DataObject, skip: bool
) -> None:
    tokenizer, spelling = SPELLINGS[name]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    cut = data.draw(st.integers(0, len(ids)))
    context, output = ids[:cut], ids[cut:]
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    before = spelling.decoder((), skip_special=skip)
    prompt = "".join(map(before.feed, context))
    assert prompt + step_by_step(spelling, output, context=context, skip=skip) == whole
    assert spelling.decode(ids, skip_special=skip) == whole


@given(data=st.data(), skip=FLAGS)
def test_any_bytes_become_text_as_they_would_at_once(data: st.DataObject, skip: bool) -> None:
    tokenizer, spelling = SPELLINGS["byte level"]
    ids = data.draw(st.lists(st.integers(0, len(spelling) - 1)))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert step_by_step(spelling, ids, skip=skip) == whole
    assert spelling.decode(ids, skip_special=skip) == whole


@pytest.mark.parametrize("name", ["word piece", "joined by spaces", "end of word", "metaspace"])
@given(data=st.data())
def test_any_ids_become_the_text_that_the_tokenizer_gives(name: str, data: st.DataObject) -> None:
    tokenizer, spelling = SPELLINGS[name]
    ids = data.draw(st.lists(st.integers(0, len(spelling) - 1), max_size=30))
    cut = data.draw(st.integers(0, len(ids)))
    whole = tokenizer.decode(ids)
    context = tokenizer.decode(ids[:cut])
    shown = step_by_step(spelling, ids[cut:], context=ids[:cut])
    assert context + shown == whole


@pytest.mark.parametrize("name", SPELLINGS)
@given(data=st.data(), skip=FLAGS)
def test_whole_texts_and_stepwise_ones_agree(name: str, data: st.DataObject, skip: bool) -> None:
    _, spelling = SPELLINGS[name]
    ids = data.draw(st.lists(st.integers(0, len(spelling) + 5), max_size=30))
    assert step_by_step(spelling, ids, skip=skip) == spelling.decode(ids, skip_special=skip)


def test_an_incomplete_character_is_held_until_it_is_whole() -> None:
    _, spelling = SPELLINGS["byte fallback"]
    ids = [BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "🌍".encode()]
    decoder = spelling.decoder([BYTE_FALLBACK.token_to_id("dog")], skip_special=True)
    assert [decoder.feed(id_) for id_ in ids] == ["", "", "", "🌍"]
    assert decoder.held() == ""


def test_bytes_that_can_form_no_character_are_told_at_once() -> None:
    _, spelling = SPELLINGS["byte fallback"]
    lead, letter = BYTE_FALLBACK.token_to_id("<0xF0>"), BYTE_FALLBACK.token_to_id("d")
    decoder = spelling.decoder([letter], skip_special=True)
    assert [decoder.feed(lead), decoder.held()] == ["", "\ufffd"]
    assert decoder.feed(letter) == "\ufffdd"
    assert decoder.feed(BYTE_FALLBACK.token_to_id("<0xFF>")) == "\ufffd"


def test_a_character_begun_in_the_prompt_is_completed() -> None:
    _, spelling = SPELLINGS["byte fallback"]
    first, second = (BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "ß".encode())
    assert step_by_step(spelling, [second], context=[first]) == "ß"


@pytest.mark.parametrize("name", ["byte fallback", "metaspace"])
def test_only_the_first_word_of_all_loses_its_space(name: str) -> None:
    tokenizer, spelling = SPELLINGS[name]
    word = tokenizer.token_to_id("▁the") or tokenizer.token_to_id("▁dog")
    start = tokenizer.token_to_id("<s>")
    shown = spelling.piece(word).decode().strip()
    assert step_by_step(spelling, [word, word]) == f"{shown} {shown}"
    assert step_by_step(spelling, [word], context=[start]) == shown
    assert step_by_step(spelling, [word], context=[start], skip=False) == f" {shown}"
    assert step_by_step(spelling, [word], context=[word, start]) == f" {shown}"


def test_special_tokens_are_shown_only_on_demand() -> None:
    tokenizer, spelling = SPELLINGS["byte level"]
    ids = tokenizer.encode("the</s> dog", add_special_tokens=False).ids
    assert step_by_step(spelling, ids, skip=False) == "the</s> dog"
    assert step_by_step(spelling, ids, skip=True) == "the dog"


@pytest.mark.parametrize("name", SPELLINGS)
def test_padding_of_the_vocabulary_has_no_text(name: str) -> None:
    _, spelling = SPELLINGS[name]
    assert step_by_step(spelling, [len(spelling), 2**32 - 1]) == ""
    assert spelling.decode([len(spelling), 2**32 - 1], skip_special=False) == ""
    assert spelling.piece(2**32 - 1) == b""


@pytest.mark.parametrize("name", SPELLINGS)
def test_text_that_never_comes_costs_no_memory(name: str) -> None:
    tokenizer, spelling = SPELLINGS[name]
    decoder = spelling.decoder((), skip_special=True)
    for _ in range(3):
        for id_ in (tokenizer.token_to_id("<s>"), len(spelling)):
            assert decoder.feed(id_) == ""
    assert decoder.held() == ""
