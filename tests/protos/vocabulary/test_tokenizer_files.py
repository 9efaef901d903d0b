"""A tokenizer is loaded as all files of its checkpoint describe it, as transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tokenizers import byte_level, write_checkpoint
from tokenizers import Tokenizer, processors

from protos.vocabulary.tokenizer_files import TokenizerConfig, VocabularyError, load_tokenizer

BYTE_LEVEL = byte_level()
SIZE = BYTE_LEVEL.get_vocab_size()
BYTES_ONLY = processors.ByteLevel(trim_offsets=False)
TEXT = "<s>the <eot> dog<tool>s the<|user|> , fox </s>"


def flags(content: str, **changed: bool) -> dict[str, Any]:
    names = ("lstrip", "rstrip", "normalized", "single_word", "special")
    return {"content": content, **dict.fromkeys(names, False), **changed}


def typed(content: str, **changed: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", **flags(content, **changed)}


def write(folder: Path, tokenizer: Tokenizer, **files: dict[str, Any]) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def both(folder: Path) -> tuple[Tokenizer, Any]:
    from transformers import PreTrainedTokenizerFast  # takes seconds: not at the top

    return load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)


DECLARED: list[dict[str, dict[str, Any]]] = [
    {"tokenizer_config": {"added_tokens_decoder": {str(SIZE): flags("<eot>", special=True)}}},
    {
        "tokenizer_config": {
            "added_tokens_decoder": {
                str(SIZE + 10): flags("<tool>", lstrip=True, rstrip=True),
                str(SIZE + 9): flags("<eot>", single_word=True),
                "2": flags("<|user|>", rstrip=True, special=True),
                "0": flags("<s>", special=False),
            }
        }
    },
    {"tokenizer_config": {"eos_token": "<eot>", "image_token": "<tool>"}},
    {"tokenizer_config": {"eos_token": "<eot>", "added_tokens_decoder": {"2": flags("<|user|>")}}},
    {"tokenizer_config": {"additional_special_tokens": ["<eot>", typed("<tool>", lstrip=True)]}},
    {"tokenizer_config": {"extra_special_tokens": {"eot_token": "<eot>", "tool": "<tool>"}}},
    {
        "tokenizer_config": {
            "extra_special_tokens": {"tool": "<tool>"},
            "additional_special_tokens": ["<eot>"],
        }
    },
    {"tokenizer_config": {"model_specific_special_tokens": {"tool": "<tool>"}}},
    {"special_tokens_map": {"eos_token": flags("<eot>", lstrip=True)}},
    {
        "special_tokens_map": {"extra_special_tokens": ["<tool>"]},
        "added_tokens": {"<tool>": SIZE + 1, "<eot>": SIZE, "never": 2},
    },
    {
        "tokenizer_config": {"added_tokens_decoder": {}, "eos_token": "</s>"},
        "special_tokens_map": {"eos_token": "<eot>"},
        "added_tokens": {"<tool>": SIZE},
    },
    {"tokenizer_config": {"eos_token": typed("dog")}},
    {"tokenizer_config": {"eos_token": "<eot>", "split_special_tokens": True}},
]


@pytest.mark.parametrize("files", DECLARED)
@pytest.mark.filterwarnings("ignore")
def test_tokens_that_files_declare_are_known_as_to_transformers(
    tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **files.get("tokenizer_config", {})}
    tokenizer = byte_level()
    tokenizer.add_tokens(["<eot>"])
    ours, theirs = both(write(tmp_path, tokenizer, **{**files, "tokenizer_config": config}))
    ids = ours.encode(TEXT).ids
    assert ids == theirs(TEXT)["input_ids"]
    for skip in (True, False):
        text = theirs.decode(ids, skip_special_tokens=skip)
        assert ours.decode(ids, skip_special_tokens=skip) == text
    for id_, token in ours.get_added_tokens_decoder().items():
        assert token.special == (ours.decode([id_]) == ""), token


def test_special_tokens_are_named_in_both_spellings(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<b>"},
        "eos_token": "<e>",
        "pad_token": None,
        "add_bos_token": True,
        "image_token": "<i>",
        "extra_special_tokens": {"audio": "<a>"},
        "model_specific_special_tokens": {"video": "<v>"},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert TokenizerConfig.read(tmp_path).special_tokens == {
        "bos_token": "<b>",
        "eos_token": "<e>",
        "image_token": "<i>",
        "audio": "<a>",
        "video": "<v>",
    }


def encode(folder: Path, processor: Any, **config: Any) -> list[str]:
    tokenizer = byte_level()
    if processor is not None:
        tokenizer.post_processor = processor
    config = {"bos_token": "<s>", "eos_token": "</s>", **config}
    return load_tokenizer(write(folder, tokenizer, tokenizer_config=config)).encode("a").tokens


@pytest.mark.parametrize("processor", [BYTES_ONLY, None])
@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({"add_bos_token": True}, ["<s>", "a"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "a", "</s>"]),
    ],
)
def test_bos_and_eos_are_written_once_where_the_settings_ask(
    tmp_path: Path, processor: Any, asked: dict[str, bool], tokens: list[str]
) -> None:
    assert encode(tmp_path, processor, tokenizer_class="LlamaTokenizerFast", **asked) == tokens


def test_bos_is_left_out_where_the_settings_ask(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}
    assert encode(tmp_path, None, **config) == ["a"]


def test_what_the_settings_leave_open_is_as_tokenizer_json_has_it(tmp_path: Path) -> None:
    assert encode(tmp_path, None, tokenizer_class="LlamaTokenizerFast") == ["<s>", "a"]


def test_eos_is_written_beside_the_bos_of_tokenizer_json(tmp_path: Path) -> None:
    tokens = encode(tmp_path, None, tokenizer_class="GemmaTokenizer", add_eos_token=True)
    assert tokens == ["<s>", "a", "</s>"]


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True},
        {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": None},
        {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": ""},
    ],
)
def test_nothing_is_written_where_the_settings_do_not_ask(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    assert encode(tmp_path, BYTES_ONLY, **config) == ["a"]


def test_truncation_that_a_file_asks_for_is_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(max_length=2)
    tokenizer.enable_padding(length=9)
    write_checkpoint(tmp_path, tokenizer)
    assert len(load_tokenizer(tmp_path).encode("the dog, the fox").ids) == len(
        BYTE_LEVEL.encode("the dog, the fox").ids
    )


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"model": {"type": "Odd"}}'])
def test_a_missing_or_malformed_file_is_named_in_one_line(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is .*; .*") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"added_tokens_decoder": {"0": 1}}',
        '{"added_tokens_decoder": {"x": {"content": "y"}}}',
        '{"added_tokens_decoder": {"0": {"content": "y", "special": "odd"}}}',
        '{"added_tokens_decoder": [1]}',
        '{"additional_special_tokens": [1]}',
    ],
)
def test_malformed_settings_are_named_in_one_line(tmp_path: Path, config: str) -> None:
    write_checkpoint(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(VocabularyError, match=r"tokenizer_config\.json .*malformed.*; fetch"):
        load_tokenizer(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"folder .*gone does not exist"):
        load_tokenizer(tmp_path / "gone")
