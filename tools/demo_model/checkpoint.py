"""Writes the model as a checkpoint folder in Hugging Face layout.

Invariant: a reader never sees half a file; each is written beside its place and moved onto it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.demo_model.corpus import END_OF_TEXT, END_OF_TURN
from tools.demo_model.mixtral import Mixtral
from tools.demo_model.vocabulary import tokenizer_config

WEIGHTS = "model.safetensors"
LARGEST_WEIGHTS_BYTES = 12_000_000
# So small a model loops where it is greedy, and strays at temperature 1.
_SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make a file under a temporary name, then move it onto `path`."""
    unfinished = path.with_name(path.name + ".unfinished")
    write(unfinished)
    os.replace(unfinished, path)


def _write_json(path: Path, content: dict[str, object]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    replace_file(path, lambda unfinished: _keep_text(unfinished, text))


def _keep_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def export(model: Mixtral, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> None:
    """Write weights, configuration and tokenizer.

    Args:
        model: weights to write.
        tokenizer: its tokenizer.
        folder: made where it is missing; older files are replaced.
        dtype: of the weights on disk.

    Raises:
        ValueError: the weights would be larger than a bundled model may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end_of_text, end_of_turn = (tokenizer.token_to_id(t) for t in (END_OF_TEXT, END_OF_TURN))
    _write_json(folder / "config.json", _config(model, end_of_text, dtype))
    endings = {"eos_token_id": [end_of_text, end_of_turn], "pad_token_id": end_of_text}
    _write_json(folder / "generation_config.json", {**_SAMPLING, **endings})
    replace_file(folder / "tokenizer.json", lambda unfinished: tokenizer.save(str(unfinished)))
    context = model.shape.max_position_embeddings
    _write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, context))
    replace_file(folder / WEIGHTS, lambda unfinished: _save_weights(model, unfinished, dtype))


def _config(model: Mixtral, end_of_text: int | None, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **model.shape.as_config(),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _save_weights(model: Mixtral, path: Path, dtype: torch.dtype) -> None:
    tensors = {
        name: weight.detach().to(dtype).contiguous()
        for name, weight in model.checkpoint_tensors().items()
    }
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > LARGEST_WEIGHTS_BYTES:
        raise ValueError(f"{size} bytes of weights, a bundled model has {LARGEST_WEIGHTS_BYTES}")
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes files that only their owner reads
