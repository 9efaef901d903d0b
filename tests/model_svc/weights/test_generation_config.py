"""Endings and sampling parameters are read from whichever files of a checkpoint tell them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from model_svc.weights.generation_config import read_eos_token_ids, read_sampling_defaults

END = "<|im_end|>"
ADDED = {"7": {"content": "<|other|>"}, "9": {"content": END, "special": True}}
FLAGGED = {"content": END, "lstrip": False, "special": True}


def eos_ids(folder: Path, *configs: dict[str, Any], **files: object) -> tuple[int, ...]:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return read_eos_token_ids(folder, configs, 100)


def test_endings_of_both_configs_count(tmp_path: Path) -> None:
    configs = {"eos_token_id": 5}, {"eos_token_id": [3, 5]}, {"eos_token_id": None}
    assert eos_ids(tmp_path, *configs) == (3, 5)


def test_an_ending_beyond_the_vocabulary_is_left_out(tmp_path: Path) -> None:
    assert eos_ids(tmp_path, {"eos_token_id": [3, 100, 2**40]}) == (3,)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": END, "added_tokens_decoder": ADDED}},
        {"tokenizer_config": {"eos_token": FLAGGED, "added_tokens_decoder": ADDED}},
        {
            "tokenizer_config": {"eos_token": END, "added_tokens_decoder": ADDED},
            "special_tokens_map": {"eos_token": "<|other|>"},
        },
        {
            "tokenizer_config": {"added_tokens_decoder": ADDED},
            "special_tokens_map": {"eos_token": END},
        },
        {
            "tokenizer_config": {"eos_token": END},
            "tokenizer": {"added_tokens": [{"id": 9, "content": END}]},
        },
        {
            "tokenizer_config": {"eos_token": END, "added_tokens_decoder": {}},
            "tokenizer": {"model": {"vocab": {"a": 0, END: 9}}},
        },
        {
            "special_tokens_map": {"eos_token": FLAGGED},
            "tokenizer": {"model": {"vocab": [*([["x", -1.0]] * 9), [END, -2.0]]}},
        },
        {
            "tokenizer_config": {"eos_token": END},
            "tokenizer": {"model": {"vocab": {"a": 0}}},
            "added_tokens": {"<|other|>": 7, END: 9},
        },
        {
            # Without the decoder the second file counts, as in transformers.
            "tokenizer_config": {"eos_token": "<|other|>"},
            "special_tokens_map": {"eos_token": END},
            "tokenizer": {
                "added_tokens": [{"id": 7, "content": "<|other|>"}, {"id": 9, "content": END}]
            },
        },
    ],
)
def test_the_tokenizers_own_ending_is_looked_up(tmp_path: Path, files: dict[str, Any]) -> None:
    assert eos_ids(tmp_path, {"eos_token_id": 2}, **files) == (2, 9)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config": {"eos_token": None}},
        {"tokenizer_config": {"eos_token": END}},
        {"tokenizer_config": {"eos_token": 4}, "tokenizer": {"added_tokens": None, "model": []}},
        {"tokenizer_config": "no JSON", "tokenizer": "[]"},
        {"tokenizer_config": {"eos_token": END}, "tokenizer": {"model": {"vocab": ["x", None]}}},
        {"tokenizer_config": {"eos_token": END, "added_tokens_decoder": {"x": 1, "200": FLAGGED}}},
        {"tokenizer_config": {"eos_token": END}, "added_tokens": {END: "9"}},
    ],
)
def test_files_that_tell_no_ending_stop_nothing(tmp_path: Path, files: dict[str, Any]) -> None:
    assert eos_ids(tmp_path, {"eos_token_id": 2}, **files) == (2,)


def test_sampling_parameters_are_taken_under_our_names() -> None:
    given = {
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 20,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
    }
    others = {"max_new_tokens": 9, "eos_token_id": 3, "presence_penalty": 1.0, "num_beams": 2}
    assert read_sampling_defaults({**given, **others}) == {
        name: value for name, value in given.items() if name != "do_sample"
    }


@pytest.mark.parametrize(
    ("generation", "temperature"),
    [
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
        ({"do_sample": False}, 0.0),
        ({"do_sample": True}, None),
        ({"do_sample": None}, None),
        ({}, None),
    ],
)
def test_only_do_sample_false_is_greedy(
    generation: dict[str, Any], temperature: float | None
) -> None:
    assert read_sampling_defaults(generation).get("temperature") == temperature


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 10**400),
        ("temperature", "0.7"),
        ("temperature", True),
        ("top_p", 0.0),
        ("top_p", 1e-60),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**32),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
    ],
)
def test_what_is_out_of_range_is_left_out_with_a_warning(
    name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        defaults = read_sampling_defaults({name: value, "min_p" if name != "min_p" else "top_p": 1})
    assert list(defaults.values()) == [1]
    assert [name in record.reason for record in caplog.records] == [True]
