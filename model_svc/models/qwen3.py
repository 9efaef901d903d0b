"""Qwen3: Llama with a norm on every query and key head, and a head_dim of its own."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family, WeightNames, read_decoder
from model_svc.models.spec import DecoderSpec, DenseSpec


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    mlp = DenseSpec(config.integer("intermediate_size"))
    bias = config.flag("attention_bias", False)
    spec = read_decoder(config, mlp, head_dim=128)
    return replace(spec, head_norm=True, qkv_bias=bias, output_bias=bias)


FAMILY = Family("Qwen3ForCausalLM", read_spec, WeightNames())
