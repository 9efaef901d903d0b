"""Rules for generating text in a checkpoint's files: end tokens and sampling defaults.

Invariant: malformed eos ids stop the start, since a text would not end; any other malformed entry
costs its default alone, with a warning that names it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_svc.models.config import CheckpointError, MalformedConfig, read_object
from model_svc.sampling.params import RANGES

log = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float32).max)
_FIELDS: Mapping[str, Callable[[float], bool]] = {
    **{name: RANGES[name][0] for name in ("temperature", "top_p", "min_p", "repetition_penalty")},
    "top_k": lambda value: 0 <= value < 2**32 and value.is_integer(),
}


def read_eos_token_ids(
    folder: Path, configs: Iterable[Mapping[str, Any]], vocab_size: int
) -> tuple[int, ...]:
    """The ids that end a text: those of `configs` and the tokenizer's own eos_token, ascending.

    Args:
        folder: of the checkpoint.
        configs: contents of config.json and generation_config.json.
        vocab_size: ids are below this; a larger one is never drawn and is left out.

    Raises:
        MalformedConfig: an eos_token_id of `configs` is none.
    """
    ids = {token_id for config in configs for token_id in _listed_ids(config.get("eos_token_id"))}
    own = _tokenizer_eos_id(folder)
    if own is not None:
        ids.add(own)
    return tuple(sorted(token_id for token_id in ids if 0 <= token_id < vocab_size))


def _listed_ids(value: object) -> list[int]:
    listed: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in listed):
        raise MalformedConfig(
            f"eos_token_id is {value!r} in config.json or generation_config.json, "
            "expected token ids"
        )
    return listed


def _tokenizer_eos_id(folder: Path) -> int | None:
    """The id of the tokenizer's eos_token; None where it has none or its files do not tell."""
    config = _read_if_there(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder")
    named = [config, _read_if_there(folder / "special_tokens_map.json")]
    if not isinstance(decoder, dict):
        named.reverse()  # as transformers, which reads the second file for want of the decoder
    token = next((text for each in named if (text := _content(each.get("eos_token")))), None)
    if token is None:
        return None
    return next((number for text, number in _vocabulary(folder, decoder) if text == token), None)


def _vocabulary(folder: Path, decoder: object) -> Iterator[tuple[object, int]]:
    """Tokens and their ids, those first that are cheap to read."""
    if isinstance(decoder, dict):
        for number, entry in decoder.items():
            if number.isdecimal():
                yield _content(entry), int(number)
    yield from _listed_tokens(_read_if_there(folder / "tokenizer.json"))
    if not isinstance(decoder, dict):  # older checkpoints have a file for it
        older = _read_if_there(folder / "added_tokens.json")
        yield from ((text, number) for text, number in older.items() if type(number) is int)


def _listed_tokens(tokenizer: Mapping[str, Any]) -> Iterator[tuple[object, int]]:
    """Tokens of tokenizer.json and their ids, the added ones first."""
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            yield _content(entry), entry["id"]
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        yield from ((text, number) for text, number in vocab.items() if type(number) is int)
    elif isinstance(vocab, list):  # of a unigram model: tokens and their scores, in order of id
        for number, pair in enumerate(vocab):
            if isinstance(pair, list) and pair:
                yield pair[0], number


def _content(entry: object) -> str | None:
    """The text of a token that is given as such, or as an object with its flags."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _read_if_there(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty, with a warning, where it cannot be read."""
    try:
        return read_object(path) or {}
    except CheckpointError as error:
        log.warning("the tokenizer's eos_token may be unknown", extra={"reason": str(error)})
        return {}


def read_sampling_defaults(generation: Mapping[str, Any]) -> dict[str, float]:
    """The sampling parameters of generation_config.json, under our names.

    `do_sample: false` is temperature 0. Without `do_sample`, given values hold. Entries that are
    malformed or out of range are left out with a warning.

    Args:
        generation: contents of the file.
    """
    defaults: dict[str, float] = {}
    for name, holds in _FIELDS.items():
        value = generation.get(name)
        if value is None:
            continue
        number = _as_float32(value)
        if number is None or not holds(number):
            reason = f"generation_config.json: {name} is {value!r:.80}"
            log.warning("a sampling default is ignored", extra={"reason": reason})
        else:
            defaults[name] = int(value) if name == "top_k" else number
    if generation.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults


def _as_float32(value: object) -> float | None:
    """A number as float32 holds it; None where it is none or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) <= _LARGEST:
        return None
    return float(np.float32(value))
