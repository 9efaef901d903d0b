"""Mixtral: Llama's attention over a mixture of experts in every layer."""

from __future__ import annotations

from kernels.ops import Routing
from model_svc.models.config import Config, MalformedConfig
from model_svc.models.family import Family
from model_svc.models.spec import DecoderSpec, MoeSpec
from model_svc.models.spec_reader import read_activation, read_attention, read_decoder
from model_svc.models.weight_names import WeightNames

_MOE = "model.layers.{layer}.block_sparse_moe."
_EXPERT = _MOE + "experts.{expert}."


def read_spec(config: Config) -> DecoderSpec:
    """See `Family.read_spec`."""
    experts = config.integer("num_local_experts", 8)
    top_k = config.integer("num_experts_per_tok", 2)
    if top_k > experts:
        raise MalformedConfig(
            f"{config.name('num_experts_per_tok')} is {top_k}, with {experts} experts"
        )
    mlp = MoeSpec(
        config.integer("intermediate_size"),
        experts,
        Routing(top_k, renormalise=True),
        read_activation(config),
    )
    return read_decoder(config, read_attention(config, theta=1e6), mlp, eps=1e-5)


FAMILY = Family(
    "MixtralForCausalLM",
    read_spec,
    WeightNames(
        router=_MOE + "gate",
        expert_gate=_EXPERT + "w1",
        expert_up=_EXPERT + "w3",
        expert_down=_EXPERT + "w2",
    ),
)
