"""What config.json says becomes a spec; what cannot be served is named."""

from __future__ import annotations

from typing import Any

import pytest
from support.checkpoints import ARCHITECTURES, OF_FAMILY, SIZES

from kernels.ops import Routing
from model_svc.models.config import CheckpointError, Config
from model_svc.models.registry import family_of
from model_svc.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LinearScaling,
    Llama3Scaling,
    MoeSpec,
    NormSpec,
    RopeSpec,
)

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spec_of(family: str, **overrides: Any) -> DecoderSpec:
    entries = SIZES | OF_FAMILY[family] | {"architectures": [ARCHITECTURES[family]]} | overrides
    config = Config({key: value for key, value in entries.items() if value is not None})
    return family_of(config).read_spec(config)


def attentions(spec: DecoderSpec) -> list[AttentionSpec]:
    return [layer.attention for layer in spec.layers]


@pytest.mark.parametrize(
    ("family", "biases", "head_norm"),
    [
        ("llama", (False, False), False),
        ("qwen2", (True, False), False),
        ("qwen3", (False, False), True),
        ("mixtral", (False, False), False),
    ],
)
def test_families_differ_in_biases_and_norms(
    family: str, biases: tuple[bool, bool], head_norm: bool
) -> None:
    spec = spec_of(family)

    assert {(a.qkv_bias, a.output_bias) for a in attentions(spec)} == {biases}
    assert {a.qk_norm is not None for a in attentions(spec)} == {head_norm}


def test_what_older_configs_leave_out_has_the_family_default() -> None:
    absent = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps"))

    llama, qwen3 = spec_of("llama", **absent), spec_of("qwen3", **absent)
    mixtral = spec_of("mixtral", **absent, num_local_experts=None)

    assert llama.final_norm == llama.layers[1].input_norm == NormSpec(1e-6)
    attention = llama.layers[1].attention
    assert (attention.kv_heads, attention.head_dim, attention.rope) == (6, 10, RopeSpec(1e4, 10))
    assert qwen3.layers[0].attention.head_dim == 128
    assert mixtral.layers[0].attention.rope == RopeSpec(1e6, 10)
    assert mixtral.final_norm == NormSpec(1e-5)
    mlp = mixtral.layers[0].mlp
    assert isinstance(mlp, MoeSpec)
    assert mlp.experts == 8


def test_mixtral_has_experts() -> None:
    mlp = MoeSpec(77, experts=5, routing=Routing(2, renormalise=True))
    assert [layer.mlp for layer in spec_of("mixtral").layers] == [mlp, mlp]


@pytest.mark.parametrize(
    ("entries", "rope"),
    [
        ({"rope_theta": 5e5}, RopeSpec(5e5, 10)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeSpec(5e5, 10)),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}},
            RopeSpec(1e4, 10, LinearScaling(4.0)),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}},
            RopeSpec(5e5, 10, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
        (
            {"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 5e5}},
            RopeSpec(5e5, 10, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
    ],
)
def test_rope_is_read_in_old_and_new_form(entries: dict[str, Any], rope: RopeSpec) -> None:
    assert {attention.rope for attention in attentions(spec_of("llama", **entries))} == {rope}


@pytest.mark.parametrize("window", [None, 512, 100_000])
def test_window_that_covers_the_context_is_none(window: int | None) -> None:
    for spec in (
        spec_of("mixtral", sliding_window=window),
        spec_of("qwen2", sliding_window=64, use_sliding_window=False),
    ):
        assert {attention.window for attention in attentions(spec)} == {None}


@pytest.mark.parametrize(
    ("family", "entries", "windows"),
    [
        ("mixtral", {"sliding_window": 64}, [64, 64]),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            [None, 64],
        ),
        (
            "qwen3",
            {
                "use_sliding_window": True,
                "sliding_window": 64,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            [64, None],
        ),
    ],
)
def test_windows_are_those_of_each_layer(
    family: str, entries: dict[str, Any], windows: list[int | None]
) -> None:
    spec = spec_of(family, **entries)

    assert [attention.window for attention in attentions(spec)] == windows


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    ("llama", {"hidden_act": "glu"}, "hidden_act is 'glu'.*gelu.*silu"),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2}}, "'yarn'.*default, linear, llama3"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantised.*awq"),
]
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": None}, "hidden_size is missing"),
    ("qwen2", {"use_sliding_window": True}, "sliding_window is missing"),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, with 2 layers"),
    ("llama", {"hidden_size": "60"}, "hidden_size is '60'"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ("llama", {"num_attention_heads": True}, "num_attention_heads is True"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads is 4"),
    ("llama", {"head_dim": 15}, "head_dim is 15"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ("llama", {"rope_parameters": [1]}, "rope_parameters"),
    ("llama", {"rope_parameters": {"rope_type": 3}}, "rope_parameters.rope_type is 3"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
    (
        "llama",
        {"rope_scaling": LLAMA3 | {"rope_type": "llama3", "high_freq_factor": 1.0}},
        "high_freq_factor is 1.0",
    ),
    ("mixtral", {"num_experts_per_tok": 6}, "num_experts_per_tok is 6, with 5 experts"),
]


@pytest.mark.parametrize(("family", "entries", "message"), UNSUPPORTED + MALFORMED)
def test_refusal_names_the_entry(family: str, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        spec_of(family, **entries)

    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)
