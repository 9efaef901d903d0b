"""Qwen2: Llama with biases on query, key and value."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family, WeightNames, read_decoder
from model_svc.models.spec import DecoderSpec, DenseSpec


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    mlp = DenseSpec(config.integer("intermediate_size"))
    return replace(read_decoder(config, mlp), qkv_bias=True)


FAMILY = Family("Qwen2ForCausalLM", read_spec, WeightNames())
