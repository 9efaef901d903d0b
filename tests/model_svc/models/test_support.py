"""Options that the operations lack are refused by the entry of config.json that asks for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import write_checkpoint

from kernels.c.library import load_library
from kernels.formats import DENSE, KvInt8
from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.config import UnsupportedOption
from model_svc.models.spec import (
    AlibiSpec,
    DecoderSpec,
    LatentSpec,
    MoeSpec,
    NormKind,
    NormSpec,
)
from model_svc.models.support import KEYS, require_supported
from model_svc.weights.checkpoint import CheckpointError, read_checkpoint
from model_svc.weights.loader import load_weights

CPU = torch.device("cpu")


def with_attention(spec: DecoderSpec, **changes: Any) -> DecoderSpec:
    """Change the last layer's attention alone."""
    *others, last = spec.layers
    changed = replace(last, attention=replace(last.attention, **changes))
    return replace(spec, layers=(*others, changed))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": LatentSpec(32, 8)}, "kv_lora_rank asks for latent attention"),
        (
            {"qk_norm": NormSpec(1e-5, NormKind.LAYER)},
            "architectures asks for a layer norm of heads",
        ),
    ],
)
def test_forms_that_no_operation_has_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path)).spec

    with pytest.raises(UnsupportedOption, match=f"config.json: {message}"):
        require_supported(with_attention(spec, **changes), reference, torch.float32, CPU)


def test_experts_have_one_activation(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, "mixtral", hidden_act="gelu"))
    assert isinstance(checkpoint.spec.layers[0].mlp, MoeSpec)

    with pytest.raises(CheckpointError, match="hidden_act asks for experts with gelu"):
        load_weights(checkpoint, reference, torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 64}, "sliding_window asks for a window of 64 positions, and .*window"),
        ({"soft_cap": 30.0}, "attn_logit_softcapping asks for a soft cap of 30, and .*soft cap"),
        ({"positions": AlibiSpec((0.5,) * 6)}, "alibi asks for ALiBi, and .*ALiBi"),
        ({"sinks": True}, "architectures asks for attention sinks, and .*sinks"),
    ],
)
def test_the_operations_themselves_are_asked_for_options_of_attention(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if load_library().library is None:
        pytest.skip(load_library().why_not)
    spec = with_attention(read_checkpoint(write_checkpoint(tmp_path)).spec, **changes)
    without = operations_for("cpu", torch.bfloat16, DENSE, KvInt8())

    require_supported(spec, operations_for("cpu", torch.bfloat16), torch.bfloat16, CPU)
    with pytest.raises(UnsupportedOption, match=f"config.json: {message}"):
        require_supported(spec, without, torch.bfloat16, CPU)


def test_a_family_may_call_an_option_otherwise(tmp_path: Path) -> None:
    spec = read_checkpoint(write_checkpoint(tmp_path)).spec
    keys = {**KEYS, "latent": "latent_rank"}

    with pytest.raises(UnsupportedOption, match="latent_rank asks for"):
        latent = with_attention(spec, latent=LatentSpec(32, 8))
        require_supported(latent, reference, torch.float32, CPU, keys)
