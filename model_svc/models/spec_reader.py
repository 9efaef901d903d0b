"""Parts of a `DecoderSpec` that most families write alike in config.json.

Invariant: every option that a spec can express is read; `model_svc.models.support` refuses those
that the operations at hand lack, before weights are read.
"""

from __future__ import annotations

from dataclasses import replace

from kernels.layers import Activation
from model_svc.models.config import Config, MalformedConfig, UnsupportedOption
from model_svc.models.spec import (
    AttentionSpec,
    DecoderSpec,
    DenseSpec,
    LayerSpec,
    LinearScaling,
    Llama3Scaling,
    MoeSpec,
    NormSpec,
    RopeSpec,
)

ROPE_TYPES = ("default", "linear", "llama3")
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_LAYER_TYPES = ("full_attention", "sliding_attention")


def read_attention(
    config: Config,
    *,
    theta: float = 10_000.0,
    head_dim: int | None = None,
    rotary_share: float | None = None,
) -> AttentionSpec:
    """Read grouped-query attention with rotary positions; biases and norms are left off.

    Args:
        config: config.json.
        theta: the family's default of `rope_theta`.
        head_dim: the family's default of `head_dim`; None: the hidden size split by the heads.
        rotary_share: the family's default of `partial_rotary_factor`; None: it rotates whole heads.

    Raises:
        CheckpointError: an entry is malformed or asks for something unsupported.
    """
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    hidden = config.integer("hidden_size")
    head_dim = config.integer("head_dim", head_dim or max(hidden // heads, 1))
    if heads % kv_heads:
        raise MalformedConfig(
            f"{config.name('num_key_value_heads')} is {kv_heads}, which does not divide "
            f"num_attention_heads {heads}"
        )
    rope = _read_rope(config, head_dim, theta, rotary_share)
    return AttentionSpec(heads, kv_heads, head_dim, head_dim**-0.5, rope)


def read_activation(config: Config, key: str = "hidden_act") -> Activation:
    """Read the MLP's activation; SiLU where the entry is missing.

    Raises:
        UnsupportedOption: it is none that is known.
    """
    name = config.text(key, "silu")
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise UnsupportedOption(f"{config.name(key)} is {name!r}, and only {known} are known")
    return _ACTIVATIONS[name]


def read_dense(config: Config, *, bias: bool = False) -> DenseSpec:
    """Read a gated MLP.

    Raises:
        CheckpointError: an entry is malformed or asks for something unsupported.
    """
    return DenseSpec(config.integer("intermediate_size"), bias, read_activation(config))


def read_decoder(
    config: Config, attention: AttentionSpec, mlp: DenseSpec | MoeSpec, *, eps: float = 1e-6
) -> DecoderSpec:
    """Read a decoder of pre-norm layers that differ in their windows alone.

    Args:
        config: config.json.
        attention: of all layers, without a window.
        mlp: of all layers.
        eps: the family's default of `rms_norm_eps`.

    Raises:
        CheckpointError: an entry is malformed or asks for something unsupported.
    """
    refuse_quantised(config)
    norm = NormSpec(config.number("rms_norm_eps", eps))
    windows = read_windows(config)
    kinds = {
        window: LayerSpec(replace(attention, window=window), mlp, norm, norm)
        for window in set(windows)
    }
    return DecoderSpec(
        vocab_size=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        layers=tuple(kinds[window] for window in windows),
        final_norm=norm,
        context_length=config.integer("max_position_embeddings"),
        tied_embeddings=config.flag("tie_word_embeddings", False),
    )


def refuse_quantised(config: Config) -> None:
    """Refuse weights that are stored quantised.

    Raises:
        UnsupportedOption: config.json says that they are.
    """
    if config.has("quantization_config"):
        method = config.section("quantization_config").text("quant_method", "unnamed")
        raise UnsupportedOption(
            f"{config.name('quantization_config')} says that the weights are quantised "
            f"({method}): use the checkpoint in float32, bfloat16 or float16"
        )


def read_windows(config: Config) -> list[int | None]:
    """Read every layer's window; None where a layer sees the whole context.

    Raises:
        CheckpointError: an entry is malformed or asks for something unsupported.
    """
    count, context = config.integer("num_hidden_layers"), config.integer("max_position_embeddings")
    sliding = _sliding_layers(config, count)
    if not any(sliding):
        return [None] * count
    window = config.integer("sliding_window")
    return [window if slides and window < context else None for slides in sliding]


def _sliding_layers(config: Config, count: int) -> list[bool]:
    # Where there is no switch, a window that is set is used.
    used = config.flag("use_sliding_window", config.has("sliding_window"))
    kinds = config.strings("layer_types")
    if kinds:
        if len(kinds) != count:
            raise MalformedConfig(
                f"{config.name('layer_types')} has {len(kinds)} entries, with {count} layers"
            )
        allowed = _LAYER_TYPES if used else _LAYER_TYPES[:1]
        others = sorted(set(kinds) - set(allowed))
        if others:
            raise UnsupportedOption(
                f"{config.name('layer_types')} has {others[0]!r}, and only "
                f"{' and '.join(allowed)} can be served here"
            )
        return [kind == "sliding_attention" for kind in kinds]
    first = config.integer("max_window_layers") if config.has("max_window_layers") else 0
    return [used and number >= first for number in range(count)]


def _read_rope(config: Config, head_dim: int, theta: float, share: float | None) -> RopeSpec:
    """Read `rope_parameters`, or the `rope_theta` and `rope_scaling` of older checkpoints."""
    section = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    theta = section.number("rope_theta", config.number("rope_theta", theta))
    key = "partial_rotary_factor"
    if share is None:
        section.require(key, 1.0)
        share = 1.0
    else:
        share = section.number(key, config.number(key, share))
    rotary_dim = int(head_dim * share)
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise MalformedConfig(
            f"{config.name('head_dim')} is {head_dim}, and rotary positions need an even number "
            f"of columns, not {rotary_dim}"
        )
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "default":
        return RopeSpec(theta, rotary_dim)
    if kind == "linear":
        return RopeSpec(theta, rotary_dim, LinearScaling(section.number("factor")))
    if kind == "llama3":
        return RopeSpec(theta, rotary_dim, _read_llama3(section))
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
