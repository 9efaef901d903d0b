"""Text given token by token is the text of all ids at once, with the context before them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_fallback, byte_level, end_of_word, unigram, word_piece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models

from detokenizer_svc.decoder import Vocabulary

BYTE_LEVEL = byte_level()
BYTE_FALLBACK = byte_fallback()
UNIGRAM = unigram()
WORD_PIECE = word_piece()


END_OF_WORD = end_of_word()
JOINED_BY_SPACES = word_piece()
JOINED_BY_SPACES.decoder = None


def marked(decoder: decoders.IncrementalDecoder) -> Tokenizer:
    """Words that begin with U+2581 and bytes, some of them added, under another decoder."""
    tokenizer = byte_fallback()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("▁▁▁", "a▁b", "##y")])
    tokenizer.add_special_tokens(["▁<PRE>"])
    tokenizer.decoder = decoder
    return tokenizer


def in_steps(*steps: decoders.IncrementalDecoder) -> Tokenizer:
    return marked(decoders.Sequence(list(steps)))


BYTES = decoders.ByteFallback()
FUSE = decoders.Fuse()
SPACES = decoders.Replace("▁", " ")
# Decoders that the table of bytes does not know.
OTHERS = {
    "spaces by a pattern": in_steps(
        decoders.Replace(Regex("▁"), " "), BYTES, FUSE, decoders.Strip(" ", 1, 0)
    ),
    "a rule of the start": in_steps(SPACES, BYTES, FUSE, decoders.Replace(Regex(r"\A (?! )"), "")),
    "a rule of each line": in_steps(SPACES, BYTES, FUSE, decoders.Replace(Regex("^ "), "")),
    "spaces after bytes": in_steps(BYTES, FUSE, SPACES),
    "two spaces fewer": in_steps(SPACES, BYTES, FUSE, decoders.Strip(" ", 2, 0)),
    "bytes and metaspace": in_steps(BYTES, decoders.Metaspace()),
    "marks inside": marked(decoders.Metaspace()),
    "once": marked(decoders.CTC(pad_token="<s>", word_delimiter_token="▁")),
    "word piece": marked(decoders.WordPiece(cleanup=False)),
    "end of word": marked(decoders.BPEDecoder(suffix="g")),
}
OTHER_SPELLINGS = {name: Vocabulary(tokenizer) for name, tokenizer in OTHERS.items()}
SPELLINGS = {
    "byte level": (BYTE_LEVEL, Vocabulary(BYTE_LEVEL)),
    "byte fallback": (BYTE_FALLBACK, Vocabulary(BYTE_FALLBACK)),
    "metaspace": (UNIGRAM, Vocabulary(UNIGRAM)),
    "word piece": (WORD_PIECE, Vocabulary(WORD_PIECE)),
    "joined by spaces": (JOINED_BY_SPACES, Vocabulary(JOINED_BY_SPACES)),
    "end of word": (END_OF_WORD, Vocabulary(END_OF_WORD)),
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
    spelling: Vocabulary, ids: Sequence[int], *, context: Sequence[int] = (), skip: bool = True
) -> str:
    decoder = spelling.decoder(context, skip_special=skip)
    return "".join(map(decoder.feed, ids)) + decoder.held()


def pieces_of(spelling: Vocabulary, ids: Sequence[int], special: frozenset[int]) -> bytes:
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


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data(), skip=FLAGS)
def test_any_decoders_text_is_that_of_all_ids(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer, spelling = OTHERS[name], OTHER_SPELLINGS[name]
    ids = data.draw(st.lists(st.integers(0, len(spelling) + 2), max_size=30))
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert step_by_step(spelling, ids, skip=skip) == whole
    assert spelling.decode(ids, skip_special=skip) == whole


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data())
def test_words_go_on_where_the_prompt_ends(name: str, data: st.DataObject) -> None:
    tokenizer, spelling = OTHERS[name], OTHER_SPELLINGS[name]
    words = ["▁the", "▁", "▁▁▁", "dog", "a▁b", "##y", "世", "<s>"]
    known = [tokenizer.token_to_id(word) for word in words]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=12))
    cut = data.draw(st.integers(0, len(ids)))
    shown = step_by_step(spelling, ids[cut:], context=ids[:cut])
    assert tokenizer.decode(ids[:cut]) + shown == tokenizer.decode(ids)


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


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (b"\xf0\x9f", "\ufffd\ufffd"),
        (b"\xf0\x9fA", "\ufffd\ufffd\ufffd"),
        (b"\xff\xe4\xb8\x96", "\ufffd\ufffd\ufffd\ufffd"),
        (b"A\n", "A\n"),
    ],
)
@pytest.mark.parametrize("after", ["d", "<s>", None])
def test_bytes_that_are_no_text_are_replaced_one_by_one(
    run: bytes, text: str, after: str | None
) -> None:
    _, spelling = SPELLINGS["byte fallback"]
    ids = [BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in run]
    ids += [BYTE_FALLBACK.token_to_id(after)] if after else []
    assert step_by_step(spelling, ids) == BYTE_FALLBACK.decode(ids)
    assert step_by_step(spelling, ids) == text + (after if after == "d" else "")


def test_a_special_token_that_is_left_out_does_not_part_the_bytes_of_a_character() -> None:
    _, spelling = SPELLINGS["byte fallback"]
    first, second = (BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "ß".encode())
    ids = [first, BYTE_FALLBACK.token_to_id("<s>"), second]
    assert step_by_step(spelling, ids) == "ß"
    assert step_by_step(spelling, ids, skip=False) == BYTE_FALLBACK.decode(
        ids, skip_special_tokens=False
    )


def test_whole_characters_before_bytes_that_are_no_text_were_said() -> None:
    _, spelling = SPELLINGS["byte fallback"]
    ids = [BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in "世".encode() + b"\xff"]
    assert step_by_step(spelling, ids) == "世\ufffd"


@pytest.mark.parametrize("name", ["byte fallback", "metaspace"])
def test_added_tokens_take_the_decoders_steps(name: str) -> None:
    tokenizer = byte_fallback() if name == "byte fallback" else unigram()
    tokenizer.add_tokens([AddedToken("▁▁▁", normalized=False)])
    tokenizer.add_special_tokens(["▁<PRE>"])
    spelling = Vocabulary(tokenizer)
    ids = [tokenizer.token_to_id(token) for token in ("d", "▁▁▁", "d", "▁<PRE>", "d")]
    assert step_by_step(spelling, ids, skip=False) == "d   d <PRE>d"
    assert step_by_step(spelling, ids) == "d   dd"


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


@pytest.mark.parametrize("decoder", [None, decoders.ByteLevel(), decoders.WordPiece(), FUSE])
def test_a_hole_in_the_vocabulary_has_no_text(decoder: decoders.IncrementalDecoder | None) -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 5}, []))
    tokenizer.decoder = decoder
    spelling = Vocabulary(tokenizer)
    assert step_by_step(spelling, [0, 3, 5, 6]) == tokenizer.decode([0, 5])
    assert (len(spelling), spelling.piece(3)) == (6, b"")


@pytest.mark.parametrize("name", SPELLINGS)
def test_text_that_never_comes_costs_no_memory(name: str) -> None:
    tokenizer, spelling = SPELLINGS[name]
    decoder = spelling.decoder((), skip_special=True)
    for _ in range(3):
        for id_ in (tokenizer.token_to_id("<s>"), len(spelling)):
            assert decoder.feed(id_) == ""
    assert decoder.held() == ""
