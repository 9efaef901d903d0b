"""Llama: grouped-query attention, a gated MLP, Llama 3.1's rope scaling."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family, WeightNames, read_decoder
from model_svc.models.spec import DecoderSpec, DenseSpec


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    mlp = DenseSpec(config.integer("intermediate_size"), bias=config.flag("mlp_bias", False))
    bias = config.flag("attention_bias", False)
    return replace(read_decoder(config, mlp), qkv_bias=bias, output_bias=bias)


FAMILY = Family("LlamaForCausalLM", read_spec, WeightNames())
