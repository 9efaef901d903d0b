"""Tokens taken step by step become the text that the library makes of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models

from protos.vocabulary.decoder_steps import DecoderSteps

LETTERS = ["a", "b", "A", "x", "é", "世", "\n", "", ".", ",", "'", "n't", "ab", "\ufffd"]
MARKED = ["▁", "▁a", "▁b", "a▁b", " ", "  ", " x", " .", " n't", "##", "##a", "<", "/w>"]
MARKED += ["a</w>", "b</w>", "</w>", "<pad>", "|", "Ġ", "Ġa", "Ã©"]
BYTES = [f"<0x{byte:02X}>" for byte in b"A\n " + "世🌍▁".encode() + b"\xff"]
TOKENS = sorted({*LETTERS, *MARKED, *BYTES})
IDS = {token: id_ for id_, token in enumerate(TOKENS)}
PATTERNS = ["▁", "a+", "^ ", r"\A (?! )", r"\A▁?a", r"\A$", r"\A[ a](?=b)", r"\A", r"\Aa?", "ab"]
PATTERNS += [r"\A(?<!a)\s?b?", r" $", r"\s", r"(?<=a)b", "</w>"]

steps = st.one_of(
    st.sampled_from([decoders.ByteFallback(), decoders.Fuse(), decoders.ByteLevel()]),
    st.sampled_from([decoders.BPEDecoder(), decoders.Replace("▁", " ")]),
    st.builds(
        lambda mark, count: decoders.Strip(mark, count, 0), st.sampled_from(" a"), st.just(2)
    ),
    st.builds(decoders.CTC, cleanup=st.booleans()),
    st.builds(decoders.WordPiece, cleanup=st.booleans()),
    st.builds(decoders.Metaspace, prepend_scheme=st.sampled_from(["always", "first", "never"])),
    st.builds(
        decoders.Replace, st.sampled_from(["▁", " .", "aa", "aba", ""]), st.sampled_from(["", "a "])
    ),
    st.builds(
        lambda pattern, content: decoders.Replace(Regex(pattern), content),
        st.sampled_from(PATTERNS),
        st.sampled_from(["", " ", "<0x41>"]),
    ),
)


def tokenizer_of(chosen: Sequence[decoders.Decoder]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(IDS, []))
    tokenizer.decoder = decoders.Sequence(list(chosen))
    return tokenizer


def step_by_step(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[str]:
    """The text of each token as it comes, and the text held at the end."""
    taken = DecoderSteps.of(tokenizer)
    return [*map(taken.push, tokens), taken.held()]


def whole(tokenizer: Tokenizer, tokens: Sequence[str]) -> str:
    return tokenizer.decode([IDS[token] for token in tokens])


@given(st.lists(steps, max_size=4), st.lists(st.sampled_from(TOKENS), max_size=12))
def test_any_steps_give_the_text_of_all_tokens(
    chosen: list[decoders.Decoder], tokens: list[str]
) -> None:
    tokenizer = tokenizer_of(chosen)
    assert "".join(step_by_step(tokenizer, tokens)) == whole(tokenizer, tokens)


@given(st.lists(st.sampled_from(TOKENS), max_size=12))
def test_tokens_without_a_decoder_are_joined_by_spaces(tokens: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE(IDS, []))
    assert "".join(step_by_step(tokenizer, tokens)) == whole(tokenizer, tokens)


@given(
    st.lists(st.sampled_from([" ", "  ", "a", " x"]), max_size=8),
    st.integers(0, 2),
    st.integers(0, 3),
)
def test_the_ends_of_a_text_are_stripped(tokens: list[str], start: int, stop: int) -> None:
    tokens = ["b", *tokens]  # the library fails on a text of which nothing stays
    tokenizer = tokenizer_of([decoders.Fuse(), decoders.Strip(" ", start, stop)])
    assert "".join(step_by_step(tokenizer, tokens)) == whole(tokenizer, tokens)


def test_a_text_of_which_nothing_stays_is_no_failure() -> None:
    tokenizer = tokenizer_of([decoders.Fuse(), decoders.Strip(" ", 1, 1)])
    assert "".join(step_by_step(tokenizer, [" "])) == ""
    assert "".join(step_by_step(tokenizer, [])) == ""


def test_what_is_held_can_be_asked_for_at_any_time() -> None:
    taken = DecoderSteps.of(tokenizer_of([decoders.BPEDecoder()]))
    given_so_far = taken.push("a</w>")
    assert (given_so_far, taken.held(), taken.held()) == ("", "a", "a")
    assert taken.push("b</w>") + taken.held() == "a b"


def test_a_rule_of_the_texts_start_holds_back_no_more_than_it_looks_at() -> None:
    rule = decoders.Replace(Regex(r"\A (?! )"), "")
    said = step_by_step(tokenizer_of([decoders.Fuse(), rule]), [" ", "a", "b"])
    assert said == ["", "a", "b", ""]


def test_a_string_to_replace_holds_back_no_more_than_may_begin_it() -> None:
    rule = decoders.Replace(" .", ".")
    said = step_by_step(tokenizer_of([decoders.Fuse(), rule]), ["a", " ", "b", " ", ".", "b"])
    assert said == ["a", "", " b", "", ".", "b", ""]


def test_bytes_are_told_once_their_run_has_ended_or_is_no_text() -> None:
    tokenizer = tokenizer_of([decoders.ByteFallback()])
    run = [f"<0x{byte:02X}>" for byte in "世".encode()]
    assert step_by_step(tokenizer, [*run, "a"]) == ["", "", "", "世a", ""]
    assert step_by_step(tokenizer, [*run, "<0xFF>", "<0x41>"]) == [
        "",
        "",
        "",
        "\ufffd" * 4,
        "\ufffd",
        "",
    ]
