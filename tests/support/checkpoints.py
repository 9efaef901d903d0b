"""Tiny random checkpoints in Hugging Face layout, for tests that load or serve one.

Every byte is a token of its own, ids 0 to 255; then come <|bos|> and <|eos|>, and every further id
decodes to a word of its own, so that whatever a random model draws becomes text.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model_svc.models.config import Config
from model_svc.models.registry import family_of
from model_svc.weights.source_map import decoder_sources
from model_svc.weights.sources import tensor_shapes

BOS_ID, EOS_ID = 256, 257
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
SIZES: dict[str, Any] = {
    "vocab_size": 515,
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"head_dim": 20, "use_sliding_window": False},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None},
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'pirate' %}{{ raise_exception('no pirates here') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_checkpoint(
    path: str | Path,
    family: str = "llama",
    dtype: str = "float32",
    seed: int = 0,
    **config_overrides: Any,
) -> Path:
    """Write config.json, generation_config.json, model.safetensors, tokenizer files into `path`.

    Args:
        path: made where it does not exist.
        family: "llama", "qwen2", "qwen3" or "mixtral".
        dtype: of the weights.
        seed: of the weights.
        config_overrides: entries of config.json, under their Hugging Face names; None removes.

    Returns:
        The folder.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    config = SIZES | OF_FAMILY[family] | config_overrides
    config |= {"architectures": [ARCHITECTURES[family]], "model_type": family, "dtype": dtype}
    config = {key: value for key, value in config.items() if value is not None}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": config.get("eos_token_id")})
    save_file(
        random_weights(config, getattr(torch, dtype), seed),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _write_tokenizer(folder, config["vocab_size"])
    return folder


def random_weights(
    config: dict[str, Any], dtype: torch.dtype, seed: int
) -> dict[str, torch.Tensor]:
    """Sample every tensor of a model of this config; activations stay near 1."""
    family = family_of(Config(config))
    spec = family.read_spec(Config(config))
    unscaled = None if spec.tied_embeddings else f"{family.names.embedding}.weight"
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(decoder_sources(spec, family.names)).items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            drawn = 1 + 0.1 * drawn
        elif name.endswith(".bias"):
            drawn = 0.1 * drawn
        elif name != unscaled:
            drawn = drawn * (1.5 / math.sqrt(shape[-1]))
        weights[name] = drawn.to(dtype)
    return weights


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    if vocab_size <= EOS_ID:
        raise ValueError(f"vocab_size {vocab_size} has no room for the bytes and two specials")
    letters = sorted(_byte_letters().items())
    vocab = {letter: byte for byte, letter in letters}
    vocab |= {f"w{number}": number for number in range(EOS_ID + 1, vocab_size)}
    # No merges: the words are decoded, but never encoded to.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = {"<|bos|>": BOS_ID, "<|eos|>": EOS_ID}
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [_special(text, number) for text, number in specials.items()]
    document["model"]["vocab"] |= specials
    _write_json(folder / "tokenizer.json", document)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": "<|eos|>",
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _byte_letters() -> dict[int, str]:
    """The printable letter that byte-level tokenizers write for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {
        byte: chr(256 + place) for place, byte in enumerate(moved)
    }


def _special(text: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True} | flags


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
