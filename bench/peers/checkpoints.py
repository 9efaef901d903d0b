"""Makes the checkpoints and prompts, once: a folder that is there is complete.

The tokenizer is byte-level BPE split as GPT-2 splits, because that is a split every server knows.
"""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.peers.workloads import LONG_PROMPT_TOKENS, PROMPT_TOKENS, Workload
from bench.random_checkpoint import write_checkpoint
from tools.demo_model.corpus import read_sources, standard_library

_END_OF_TEXT = "<|endoftext|>"
_STRIDE = 7919  # prime: starts do not fall on each other


def ready_checkpoint(workload: Workload, folder: Path) -> Path:
    """The checkpoint of `workload` below `folder`; made if it is not there.

    Raises:
        ValueError: the standard library has too little text for the vocabulary.
    """
    made = folder / workload.name
    if made.is_dir():
        return made
    partial = folder / f"{workload.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    vocabulary = workload.shape.vocabulary
    train_tokenizer(iter(read_sources(standard_library()).values()), vocabulary).save(
        str(partial / "tokenizer.json")
    )
    _write_json(partial / "tokenizer_config.json", tokenizer_config(workload.shape.context))
    _write_json(partial / "generation_config.json", {"eos_token_id": 0})
    write_checkpoint(partial, workload.shape)
    return partial.rename(made)


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Learn the merges of a vocabulary of exactly so many entries.

    Raises:
        ValueError: the texts are too small for it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(
            f"the texts yield {tokenizer.get_vocab_size()} entries, {vocabulary} are wanted"
        )
    return tokenizer


def tokenizer_config(context: int) -> dict[str, object]:
    """The content of `tokenizer_config.json`."""
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {"0": {"content": _END_OF_TEXT, "special": True, **flags}},
        "bos_token": None,
        "eos_token": _END_OF_TEXT,
        "pad_token": _END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }


def prompts(checkpoint: Path, count: int, *, long: bool) -> list[str]:
    """Texts of about as many tokens as asked, cut from a module that every Python carries.

    Args:
        checkpoint: whose tokenizer counts.
        count: how many.
        long: `LONG_PROMPT_TOKENS` each instead of `PROMPT_TOKENS`.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(inspect.getsource(textwrap) + inspect.getsource(inspect)).ids
    length = LONG_PROMPT_TOKENS if long else PROMPT_TOKENS
    places = (number * _STRIDE % (len(ids) - length) for number in range(count))
    return [tokenizer.decode(ids[place : place + length]) for place in places]


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
