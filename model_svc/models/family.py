"""What a family of checkpoints is: how its config is read, and what it calls its weights.

Invariant: families differ in data alone; no code here or in a family runs in a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model_svc.models.config import Config, MalformedConfig, UnsupportedOption
from model_svc.models.spec import (
    DecoderSpec,
    DenseSpec,
    LinearScaling,
    Llama3Scaling,
    MoeSpec,
    RopeSpec,
)

ROPE_TYPES = ("default", "linear", "llama3")
_LAYER = "model.layers.{layer}."


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of tensors in a checkpoint, with places for layer and expert.

    Projections are named without their `.weight` or `.bias`.
    """

    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    output_head: str = "lm_head.weight"
    input_norm: str = _LAYER + "input_layernorm.weight"
    q: str = _LAYER + "self_attn.q_proj"
    k: str = _LAYER + "self_attn.k_proj"
    v: str = _LAYER + "self_attn.v_proj"
    q_norm: str = _LAYER + "self_attn.q_norm.weight"
    k_norm: str = _LAYER + "self_attn.k_norm.weight"
    output: str = _LAYER + "self_attn.o_proj"
    mlp_norm: str = _LAYER + "post_attention_layernorm.weight"
    gate: str = _LAYER + "mlp.gate_proj"
    up: str = _LAYER + "mlp.up_proj"
    down: str = _LAYER + "mlp.down_proj"
    router: str = _LAYER + "mlp.gate"
    expert_gate: str = _LAYER + "mlp.experts.{expert}.gate_proj"
    expert_up: str = _LAYER + "mlp.experts.{expert}.up_proj"
    expert_down: str = _LAYER + "mlp.experts.{expert}.down_proj"


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint."""

    architecture: str
    """Its entry in config.json's `architectures`."""
    read_spec: Callable[[Config], DecoderSpec]
    names: WeightNames


def read_decoder(
    config: Config,
    mlp: DenseSpec | MoeSpec,
    *,
    eps: float = 1e-6,
    theta: float = 10_000.0,
    head_dim: int | None = None,
) -> DecoderSpec:
    """Read what all families write alike; biases and head norms are left off.

    Args:
        config: config.json.
        mlp: the layers' MLP, read by the family.
        eps: the family's default of `rms_norm_eps`.
        theta: the family's default of `rope_theta`.
        head_dim: the family's default of `head_dim`; None: the hidden size split by the heads.

    Raises:
        CheckpointError: an entry is malformed or asks for something unsupported.
    """
    config.require("hidden_act", "silu")
    _refuse_quantised(config)
    _refuse_windows(config)
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    hidden = config.integer("hidden_size")
    head_dim = config.integer("head_dim", head_dim or max(hidden // heads, 1))
    if heads % kv_heads:
        raise MalformedConfig(
            f"{config.name('num_key_value_heads')} is {kv_heads}, which does not divide "
            f"num_attention_heads {heads}"
        )
    if head_dim % 2:
        raise MalformedConfig(
            f"{config.name('head_dim')} is {head_dim}, and rotary positions need an even one"
        )
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden=hidden,
        layers=config.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=config.number("rms_norm_eps", eps),
        rope=_read_rope(config, theta),
        mlp=mlp,
        context_length=config.integer("max_position_embeddings"),
        tied_embeddings=config.flag("tie_word_embeddings", False),
    )


def _refuse_quantised(config: Config) -> None:
    if config.has("quantization_config"):
        method = config.section("quantization_config").text("quant_method", "unnamed")
        raise UnsupportedOption(
            f"{config.name('quantization_config')} says that the weights are quantised "
            f"({method}): use the checkpoint in float32, bfloat16 or float16"
        )


def _refuse_windows(config: Config) -> None:
    """Attention here always sees the whole sequence."""
    config.require("use_sliding_window", False)
    # Where there is no such switch, a window that is set is used.
    if config.has("sliding_window") and not config.has("use_sliding_window"):
        window, context = (
            config.integer("sliding_window"),
            config.integer("max_position_embeddings"),
        )
        if window < context:
            raise UnsupportedOption(
                f"{config.name('sliding_window')} is {window}, and only null or the whole "
                f"context ({context}) is supported"
            )
    others = sorted(set(config.strings("layer_types")) - {"full_attention"})
    if others:
        raise UnsupportedOption(
            f"{config.name('layer_types')} has {others[0]!r}, and only 'full_attention' is "
            "supported"
        )


def _read_rope(config: Config, default_theta: float) -> RopeSpec:
    """Read `rope_parameters`, or the `rope_theta` and `rope_scaling` of older checkpoints."""
    section = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    theta = section.number("rope_theta", config.number("rope_theta", default_theta))
    section.require("partial_rotary_factor", 1.0)
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, LinearScaling(section.number("factor")))
    if kind == "llama3":
        return RopeSpec(theta, _read_llama3(section))
    raise UnsupportedOption(
        f"{section.name('rope_type')} is {kind!r}, and only {', '.join(ROPE_TYPES)} are supported"
    )


def _read_llama3(section: Config) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_context=section.integer("original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise MalformedConfig(
            f"{section.name('high_freq_factor')} is {scaling.high_freq_factor}, expected more "
            f"than low_freq_factor {scaling.low_freq_factor}"
        )
    return scaling
