"""A text's pieces have the text's ids, and where that is not certain nothing is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.tiny_tokenizers import (
    SENTENCES,
    byte_fallback,
    byte_level,
    end_of_word,
    prepending,
    unigram,
    word_piece,
)
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from tokenizer_svc.text import cuts as cuts_module
from tokenizer_svc.text.cuts import Cuts

DEMO = Path(__file__).resolve().parents[3] / "models/demo/tokenizer.json"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def find_cuts(tokenizer: Tokenizer) -> Cuts | None:
    return cuts_module.find_cuts(tokenizer, tokenizer.get_vocab(with_added_tokens=False))


def metaspace(scheme: str, *, split: bool) -> Tokenizer:
    tokenizer = byte_fallback()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    return tokenizer


def splitting(*steps: object, normalizer: object = None) -> Tokenizer:
    """The byte-level tokenizer, its text split by `steps` first."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizer
    end = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, end])
    return tokenizer


def pattern(text: str, behavior: str = "isolated", **options: bool) -> object:
    return pre_tokenizers.Split(Regex(text), behavior, **options)


def prefixing() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def swallowing() -> Tokenizer:
    """Added tokens that take spaces around them, or mind their neighbours."""
    tokenizer = byte_level()
    tokenizer.add_tokens(
        [
            AddedToken("[L]", lstrip=True),
            AddedToken("<R>", rstrip=True),
            AddedToken("<B>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("dog", single_word=True),
            AddedToken("   "),
        ]
    )
    return tokenizer


def folding() -> Tokenizer:
    tokenizer = splitting(pattern(LLAMA3), normalizer=normalizers.Lowercase())
    tokenizer.add_tokens([AddedToken("DoG", rstrip=True, normalized=True)])
    return tokenizer


def bert() -> Tokenizer:
    tokenizer = word_piece()
    tokenizer.normalizer = normalizers.BertNormalizer()
    return tokenizer


CUT: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte level with a space before": prefixing,
    "Llama 3": lambda: splitting(pattern(LLAMA3)),
    "Qwen": lambda: splitting(pattern(LLAMA3), normalizer=normalizers.NFC()),
    "tiktoken": lambda: splitting(pattern(LLAMA3, "removed", invert=True)),
    "DeepSeek": lambda: splitting(pattern(r"\p{N}{1,3}"), pattern(LLAMA3)),
    "NFKC": lambda: splitting(pattern(LLAMA3), normalizer=normalizers.NFKC()),
    "lower case": folding,
    "added tokens": swallowing,
    "Llama 2": prepending,
    "always": lambda: metaspace("always", split=True),
    "always, one word": lambda: metaspace("always", split=False),
    "first": lambda: metaspace("first", split=True),
    "first, one word": lambda: metaspace("first", split=False),
    "never, one word": lambda: metaspace("never", split=False),
    "unigram": unigram,
    "WordPiece": word_piece,
    "BERT": bert,
    "demo": lambda: Tokenizer.from_file(str(DEMO)),
}

ATOMS = st.sampled_from(
    [
        *"aegtdo TO.,'(<>[]_-1\n\t\r",
        *("the", "dog", "DOG", "  ", "\n\n", "\r\n", " the dog", "don't", "123", "</s>", "<s>"),
        *("<|user|>", "[L]", "<R>", "<B>", "▁", "é", "e\u0301", "\u0301", "世界", "\uff0c", "。"),
        *(
            "\u212a",
            "\u017f",
            "ﬁ",
            "\u00a0",
            "\u200b",
            "\x1c",
            "한국",
            "각",
            "\u11a8",
            "🌍",
            "ß",
            "İ",
        ),
        *SENTENCES,
    ]
)
TEXTS = st.lists(ATOMS, max_size=40).map("".join)


@pytest.mark.parametrize("name", CUT)
def test_pieces_have_the_ids_of_the_whole(name: str) -> None:
    tokenizer = CUT[name]()
    cuts = find_cuts(tokenizer)
    assert cuts is not None

    @settings(max_examples=150, deadline=None)
    @given(TEXTS, st.sampled_from([1, 3, 20]))
    @example("the <R> dog [L] dog <B> dog <B>   dog <s> the </s> the", 1)
    def check(text: str, characters: int) -> None:
        pieces = [text[begin:end] for begin, end in cuts.spans(text, characters)]
        encodings = tokenizer.encode_batch_fast([text, *pieces], add_special_tokens=False)
        whole, *parts = [encoding.ids for encoding in encodings]
        assert [id_ for part in parts for id_ in part] == whole

    check()


@pytest.mark.parametrize("name", CUT)
def test_ordinary_text_is_cut(name: str) -> None:
    cuts = find_cuts(CUT[name]())
    assert cuts is not None
    text = "Every quick brown fox is here. " * 100
    spans = cuts.spans(text, 100)
    assert len(spans) > 20
    assert all(end - begin < 200 for begin, end in spans)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab cd", ["ab", " cd"]),
        ("ab  cd", ["ab  cd"]),
        ("1,2\n3,4\n\n5", ["1,2\n", "3,4\n\n5"]),
        ("好\uff0c你", ["好", "\uff0c你"]),
        ("ababababab", ["ababababab"]),
    ],
)
def test_cuts_lie_at_single_spaces_line_ends_and_full_stops(text: str, pieces: list[str]) -> None:
    cuts = find_cuts(splitting(pattern(LLAMA3)))
    assert cuts is not None
    assert [text[begin:end] for begin, end in cuts.spans(text, 1)] == pieces


def with_token(content: str, **flags: bool) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(content, **flags)])
    return tokenizer


def with_vocabulary(tokenizer: Tokenizer, **options: object) -> Tokenizer:
    vocabulary = {token: id_ for id_, token in enumerate(["▁", "a", "b", "a▁", "▁b", "?"])}
    tokenizer.model = models.BPE(vocabulary, [("a", "▁")], **{"unk_token": "?", **options})
    return tokenizer


@pytest.mark.parametrize(
    "make",
    [
        end_of_word,  # the whole text is one word
        lambda: with_token("New York"),
        lambda: with_token("end "),
        lambda: with_token(" ", normalized=False),
        lambda: splitting(pattern(r"\w+ \w+|\s+")),  # joins words across a space
        lambda: splitting(pattern(r"\p{L}+(?=\s)|\s+")),  # looks past the word
        lambda: splitting(pattern(r"\p{N}{1,3}")),
        lambda: splitting(pattern(LLAMA3.replace(r"|\s+(?!\S)|\s+", ""), "removed", invert=True)),
        lambda: splitting(pre_tokenizers.Split(" ", "merged_with_previous")),
        lambda: splitting(pattern(LLAMA3), normalizer=normalizers.Strip()),
        lambda: splitting(pattern(LLAMA3), normalizer=normalizers.Replace(" a", "b")),
        lambda: splitting(pattern(LLAMA3), normalizer=normalizers.Replace(Regex(r"\s+"), " ")),
        lambda: splitting(pattern(LLAMA3), normalizer=normalizers.Prepend("x")),
        lambda: with_vocabulary(prepending(), ignore_merges=True),
        lambda: with_vocabulary(prepending(), dropout=0.5),
        lambda: with_vocabulary(prepending(), unk_token=None),
    ],
)
def test_nothing_is_cut_where_it_may_change_the_ids(make: Callable[[], Tokenizer]) -> None:
    assert find_cuts(make()) is None


def test_a_text_that_is_one_word_is_not_cut_after_what_joins_a_space() -> None:
    tokenizer = with_vocabulary(metaspace("never", split=False))
    cuts = find_cuts(tokenizer)
    assert cuts is not None
    assert cuts.spans("a b b a", 1) == [(0, 3), (3, 7)]


def test_a_tokenizer_that_raises_on_the_sample_is_not_cut() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "▁": 1}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert find_cuts(tokenizer) is None
