"""Families that the product does not serve yet, as data: proof that one file of it is enough.

Each is a reader of transformers' own config.json and a table of names; `write_random` makes a tiny
checkpoint with transformers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model_svc.models.config import Config, read_object
from model_svc.models.family import Family
from model_svc.models.spec import (
    AlibiSpec,
    AttentionSpec,
    DecoderSpec,
    DenseSpec,
    LayerSpec,
    NormKind,
    NormSpec,
    Residual,
    RopeSpec,
)
from model_svc.models.spec_reader import read_attention, read_decoder, read_dense
from model_svc.models.weight_names import FusedQkv, GateUp, WeightNames
from model_svc.weights.checkpoint import Checkpoint

_LAYER = "model.layers.{layer}."
_SIZES = {
    "vocab_size": 307,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_random(folder: Path, model_type: str, **entries: Any) -> Path:
    """Write a tiny checkpoint with transformers, scaled so that every option matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **(_SIZES | entries))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return folder


def checkpoint_of(folder: Path, family: Family) -> Checkpoint:
    """A checkpoint as it would be read were `family` registered."""
    entries = read_object(folder / "config.json")
    assert entries is not None
    return Checkpoint(
        folder, folder.name, family, family.read_spec(Config(entries)), (), "float32", {}
    )


def _glm4(config: Config) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    attention = replace(read_attention(config, rotary_share=0.5), qkv_bias=bias)
    spec = read_decoder(config, attention, read_dense(config))
    layers = [
        replace(layer, attention_output_norm=spec.final_norm, mlp_output_norm=spec.final_norm)
        for layer in spec.layers
    ]
    return replace(spec, layers=tuple(layers))


GLM4 = Family(
    "Glm4ForCausalLM",
    _glm4,
    WeightNames(
        attention_output_norm=_LAYER + "post_self_attn_layernorm",
        mlp_output_norm=_LAYER + "post_mlp_layernorm",
        gate=_LAYER + "mlp.gate_up_proj",
        up=_LAYER + "mlp.gate_up_proj",
        gate_up=GateUp.HALVES,
        interleaved_rope=True,
    ),
)
"""Sandwich norms, half of each head rotated, pairs side by side, gates and ups in one tensor."""


def _phi3(config: Config) -> DecoderSpec:
    attention = read_attention(config, rotary_share=1.0)
    return read_decoder(config, attention, read_dense(config), eps=1e-5)


_PHI3_QKV = _LAYER + "self_attn.qkv_proj"
PHI3 = Family(
    "Phi3ForCausalLM",
    _phi3,
    WeightNames(
        q=_PHI3_QKV,
        k=_PHI3_QKV,
        v=_PHI3_QKV,
        qkv=FusedQkv(),
        gate=_LAYER + "mlp.gate_up_proj",
        up=_LAYER + "mlp.gate_up_proj",
        gate_up=GateUp.HALVES,
    ),
)
"""Query, key and value in one tensor."""


def _cohere(config: Config) -> DecoderSpec:
    norm = NormSpec(config.number("layer_norm_eps", 1e-5), NormKind.LAYER)
    spec = read_decoder(config, read_attention(config), read_dense(config))
    layers = [
        replace(layer, input_norm=norm, mlp_norm=None, residual=Residual.PARALLEL)
        for layer in spec.layers
    ]
    return replace(
        spec,
        layers=tuple(layers),
        final_norm=norm,
        logit_scale=config.number("logit_scale", 0.0625),
        tied_embeddings=config.flag("tie_word_embeddings", True),
    )


COHERE = Family("CohereForCausalLM", _cohere, WeightNames(interleaved_rope=True))
"""Attention and MLP in parallel behind one layer norm; logits scaled, embeddings tied."""


def _gemma2(config: Config) -> DecoderSpec:
    attention = replace(
        read_attention(config, head_dim=256),
        scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
        soft_cap=config.number("attn_logit_softcapping"),
    )
    mlp = DenseSpec(config.integer("intermediate_size"), activation="gelu_tanh")
    spec = read_decoder(config, attention, mlp)
    layers = [
        replace(layer, attention_output_norm=spec.final_norm, mlp_output_norm=spec.final_norm)
        for layer in spec.layers
    ]
    return replace(
        spec, layers=tuple(layers), tied_embeddings=True, embedding_scale=spec.hidden**0.5
    )


GEMMA2 = Family(
    "Gemma2ForCausalLM",
    _gemma2,
    WeightNames(
        attention_output_norm=_LAYER + "post_attention_layernorm",
        mlp_norm=_LAYER + "pre_feedforward_layernorm",
        mlp_output_norm=_LAYER + "post_feedforward_layernorm",
        norm_offset=1.0,
    ),
)
"""Windows in every other layer, capped scores, norms stored less one, embeddings scaled."""


def _falcon(config: Config) -> DecoderSpec:
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    head_dim = hidden // heads
    # Falcon scales ALiBi's penalty with the scores.
    slopes = tuple(slope * head_dim**-0.5 for slope in alibi_slopes(heads))
    attention = AttentionSpec(
        heads,
        1 if config.flag("multi_query", True) else heads,
        head_dim,
        head_dim**-0.5,
        AlibiSpec(slopes) if config.flag("alibi", False) else RopeSpec(10_000.0, head_dim),
    )
    norm = NormSpec(config.number("layer_norm_epsilon", 1e-5), NormKind.LAYER, bias=True)
    mlp = DenseSpec(config.integer("ffn_hidden_size"), activation="gelu", gated=False)
    layer = LayerSpec(attention, mlp, norm, None, residual=Residual.PARALLEL)
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden=hidden,
        layers=(layer,) * config.integer("num_hidden_layers"),
        final_norm=norm,
        context_length=config.integer("max_position_embeddings", 2048),
        tied_embeddings=config.flag("tie_word_embeddings", True),
    )


def _neox(config: Config) -> DecoderSpec:
    attention = replace(read_attention(config, rotary_share=0.25), qkv_bias=True, output_bias=True)
    mlp = replace(read_dense(config, bias=True), gated=False)
    norm = NormSpec(config.number("layer_norm_eps", 1e-5), NormKind.LAYER, bias=True)
    parallel = config.flag("use_parallel_residual", True)
    residual = Residual.PARALLEL if parallel else Residual.SEQUENTIAL
    layer = LayerSpec(attention, mlp, norm, norm, residual=residual)
    spec = read_decoder(config, attention, mlp)
    return replace(spec, layers=(layer,) * len(spec.layers), final_norm=norm)


_NEOX = "gpt_neox.layers.{layer}."
_NEOX_QKV = _NEOX + "attention.query_key_value"
NEOX = Family(
    "GPTNeoXForCausalLM",
    _neox,
    WeightNames(
        embedding="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        output_head="embed_out",
        input_norm=_NEOX + "input_layernorm",
        q=_NEOX_QKV,
        k=_NEOX_QKV,
        v=_NEOX_QKV,
        qkv=FusedQkv(groups=None),
        output=_NEOX + "attention.dense",
        mlp_norm=_NEOX + "post_attention_layernorm",
        up=_NEOX + "mlp.dense_h_to_4h",
        down=_NEOX + "mlp.dense_4h_to_h",
    ),
)
"""Parallel residual with a norm each, a quarter of each head rotated, biases everywhere."""

_H = "transformer.h.{layer}."
_FALCON_QKV = _H + "self_attention.query_key_value"
FALCON = Family(
    "FalconForCausalLM",
    _falcon,
    WeightNames(
        embedding="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        input_norm=_H + "input_layernorm",
        q=_FALCON_QKV,
        k=_FALCON_QKV,
        v=_FALCON_QKV,
        qkv=FusedQkv(groups=None),
        output=_H + "self_attention.dense",
        up=_H + "mlp.dense_h_to_4h",
        down=_H + "mlp.dense_4h_to_h",
    ),
)
"""Parallel residual, ALiBi, layer norms with biases, an MLP without gates."""


def alibi_slopes(heads: int) -> list[float]:
    """Slopes of Press et al. 2022, for numbers of heads that are no power of two as well."""
    whole = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (number + 1) / whole) for number in range(whole)]
    between = [2.0 ** (-4 * (2 * number + 1) / whole) for number in range(heads - whole)]
    return slopes + between
