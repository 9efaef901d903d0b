"""Qwen2: Llama with biases on query, key and value."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family
from model_svc.models.spec import DecoderSpec
from model_svc.models.spec_reader import read_attention, read_decoder, read_dense
from model_svc.models.weight_names import WeightNames


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    attention = replace(read_attention(config), qkv_bias=True)
    return read_decoder(config, attention, read_dense(config))


FAMILY = Family("Qwen2ForCausalLM", read_spec, WeightNames())
