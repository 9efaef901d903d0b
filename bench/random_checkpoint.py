"""Random checkpoints in Hugging Face layout: their words are noise, their cost is not.

A shape and a seed give the same bytes on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_SPREAD = 0.02  # standard deviation of the weights, as transformers initialises them


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """A decoder: Llama's, or Mixtral's where it has experts.

    Attributes:
        intermediate: width of the MLP, or of one expert.
        experts: how many a layer has; 0: none, a dense MLP.
        experts_per_token: how many of them a token goes through.
        tied: the output projection is the embedding.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int = 4096
    experts: int = 0
    experts_per_token: int = 0
    tied: bool = True

    def config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        moe = {
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.experts_per_token,
            "sliding_window": None,
        }
        return {
            "architectures": ["MixtralForCausalLM" if self.experts else "LlamaForCausalLM"],
            "model_type": "mixtral" if self.experts else "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.context,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
            **(moe if self.experts else {}),
        }

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights, as in the Hugging Face layout."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            shapes |= dict(self._layer(f"model.layers.{layer}."))
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights in the checkpoint."""
        return sum(prod(shape) for shape in self.weights().values())

    @property
    def layer_parameters_per_token(self) -> int:
        """Weights of all layers that one token is multiplied with."""
        idle = (self.experts - self.experts_per_token) * 3 * self.hidden * self.intermediate
        ends = self.hidden * (1 + self.vocabulary * (1 if self.tied else 2))
        return self.parameters - ends - self.layers * max(0, idle)

    @property
    def decode_parameters(self) -> int:
        """Weights that must be read for one more token of a lone stream."""
        return self.layer_parameters_per_token + self.hidden * (1 + self.vocabulary)

    def _layer(self, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden = self.hidden
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}self_attn.q_proj.weight", (self.heads * self.head_dim, hidden)
        yield f"{prefix}self_attn.k_proj.weight", (self.kv_heads * self.head_dim, hidden)
        yield f"{prefix}self_attn.v_proj.weight", (self.kv_heads * self.head_dim, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, self.heads * self.head_dim)
        if not self.experts:
            yield from self._mlp(f"{prefix}mlp.", ("gate_proj", "up_proj", "down_proj"))
            return
        moe = f"{prefix}block_sparse_moe."
        yield f"{moe}gate.weight", (self.experts, hidden)
        for expert in range(self.experts):
            yield from self._mlp(f"{moe}experts.{expert}.", ("w1", "w3", "w2"))

    def _mlp(
        self, prefix: str, names: tuple[str, str, str]
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        gate, up, down = names
        yield f"{prefix}{gate}.weight", (self.intermediate, self.hidden)
        yield f"{prefix}{up}.weight", (self.intermediate, self.hidden)
        yield f"{prefix}{down}.weight", (self.hidden, self.intermediate)


def write_checkpoint(folder: Path, shape: DecoderShape, *, seed: int = 0) -> None:
    """Write `config.json` and bfloat16 weights into an existing folder."""
    import torch
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2), encoding="utf-8")
    random = np.random.default_rng(seed)
    tensors = {}
    for name, sizes in shape.weights().items():
        if len(sizes) == 1:  # a norm
            values = np.ones(sizes, dtype=np.float32)
        else:
            values = random.standard_normal(sizes, dtype=np.float32) * np.float32(_SPREAD)
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
