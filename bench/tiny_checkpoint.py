"""A random dense Llama of 5.8 million parameters: its words are noise, its cost is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = 6
HIDDEN = 256
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 64
INTERMEDIATE = 768
VOCABULARY = 4096
CONTEXT = 4096
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_tiny_checkpoint(folder: Path, *, tokenizer: Path) -> Path:
    """Write the checkpoint in bfloat16 with the tokenizer of another; return its folder.

    Args:
        folder: to be made.
        tokenizer: a checkpoint whose vocabulary has at most `VOCABULARY` entries.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(_config(), indent=2), encoding="utf-8")
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in _shapes().items():
        norm = len(shape) == 1
        values = np.ones(shape) if norm else random.normal(0.0, 0.02, shape)
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as in the Hugging Face layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (HIDDEN,),
            f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
            f"{prefix}self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes
