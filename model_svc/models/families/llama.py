"""Llama: grouped-query attention, a gated MLP, Llama 3.1's rope scaling."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family
from model_svc.models.spec import DecoderSpec
from model_svc.models.spec_reader import read_attention, read_decoder, read_dense
from model_svc.models.weight_names import WeightNames


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    bias = config.flag("attention_bias", False)
    attention = replace(read_attention(config), qkv_bias=bias, output_bias=bias)
    mlp = read_dense(config, bias=config.flag("mlp_bias", False))
    return read_decoder(config, attention, mlp)


FAMILY = Family("LlamaForCausalLM", read_spec, WeightNames())
