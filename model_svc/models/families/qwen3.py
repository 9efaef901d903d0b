"""Qwen3: Llama with a norm on every query and key head, and a head_dim of its own."""

from __future__ import annotations

from dataclasses import replace

from model_svc.models.config import Config
from model_svc.models.family import Family
from model_svc.models.spec import DecoderSpec, NormSpec
from model_svc.models.spec_reader import read_attention, read_decoder, read_dense
from model_svc.models.weight_names import WeightNames


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    bias = config.flag("attention_bias", False)
    attention = replace(
        read_attention(config, head_dim=128),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=NormSpec(config.number("rms_norm_eps", 1e-6)),
    )
    return read_decoder(config, attention, read_dense(config))


FAMILY = Family("Qwen3ForCausalLM", read_spec, WeightNames())
