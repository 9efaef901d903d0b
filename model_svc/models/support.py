"""Refusal of models that the operations at hand cannot compute, before weights are read.

Invariant: the operations themselves are asked; a refusal names the entry of config.json that asks
for an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

import torch

from kernels.devices import UnsupportedDevice
from kernels.ops import AttentionChunks, Operations
from model_svc.models.config import UnsupportedOption
from model_svc.models.decoder import attention_options
from model_svc.models.spec import (
    AttentionKind,
    AttentionSpec,
    DecoderSpec,
    DenseSpec,
    MoeSpec,
    NormKind,
)

KEYS: Mapping[str, str] = {
    "activation": "hidden_act",
    "alibi": "alibi",
    "latent": "kv_lora_rank",
    "soft cap": "attn_logit_softcapping",
    "window": "sliding_window",
}
"""Entries of config.json that ask for options, but where a family has others; an option that is
not listed comes with the architecture."""


def require_supported(
    spec: DecoderSpec,
    ops: Operations,
    dtype: torch.dtype,
    device: torch.device,
    keys: Mapping[str, str] = KEYS,
) -> None:
    """Refuse a model with an option that `ops` lacks.

    Args:
        spec: of the model.
        ops: operations that it would run with.
        dtype: that it would be computed in.
        device: of its tensors.
        keys: entries of config.json by option, as `KEYS`.

    Raises:
        UnsupportedOption: there is such an option; the message names its entry and the reason.
    """
    asked = _Asked(ops, dtype, device, keys)
    for layer in dict.fromkeys(spec.layers):
        asked.attention(layer.attention)
        asked.mlp(layer.mlp)


class _Asked:
    """Options that are asked for, one by one."""

    def __init__(
        self, ops: Operations, dtype: torch.dtype, device: torch.device, keys: Mapping[str, str]
    ) -> None:
        self._ops = ops
        self._dtype = dtype
        self._device = device
        self._keys = keys

    def attention(self, spec: AttentionSpec) -> None:
        if spec.latent is not None:
            self._refuse("latent", "latent attention", "it cannot be computed yet")
        if spec.qk_norm is not None and spec.qk_norm.kind is not NormKind.RMS:
            self._refuse("qk norm", "a layer norm of heads", "only an RMS norm is supported")
        kind = spec.kind
        plain = replace(kind, slopes=None, window=None, soft_cap=None)
        if kind.slopes is not None:
            self._plan("alibi", "ALiBi", replace(plain, slopes=kind.slopes))
        if kind.window is not None:
            what = f"a window of {kind.window} positions"
            self._plan("window", what, replace(plain, window=kind.window))
        if kind.soft_cap is not None:
            what = f"a soft cap of {kind.soft_cap:g}"
            self._plan("soft cap", what, replace(plain, soft_cap=kind.soft_cap))
        if spec.sinks:
            sinks = torch.zeros(spec.heads, device=self._device)
            self._plan("sinks", "attention sinks", plain, sinks)

    def mlp(self, mlp: DenseSpec | MoeSpec) -> None:
        if isinstance(mlp, MoeSpec) and mlp.activation != "silu":
            self._refuse("activation", f"experts with {mlp.activation}", "only silu is supported")

    def _plan(
        self, option: str, what: str, kind: AttentionKind, sinks: torch.Tensor | None = None
    ) -> None:
        """Plan a step of one token."""
        options = attention_options(kind, sinks, self._device)
        chunks = _one_token(self._device)
        try:
            self._ops.plan_attention(chunks, kind.shape, self._dtype, options)
        except UnsupportedDevice as error:
            self._refuse(option, what, str(error))

    def _refuse(self, option: str, what: str, why: str) -> NoReturn:
        key = self._keys.get(option, "architectures")
        raise UnsupportedOption(f"config.json: {key} asks for {what}, and {why}")


def _one_token(device: torch.device) -> AttentionChunks:
    one = torch.ones(1, dtype=torch.int64, device=device)
    return AttentionChunks(
        slot_table=torch.zeros(1, 1, dtype=torch.int32, device=device),
        rows=one - 1,
        q_starts=torch.arange(2, device=device),
        kv_lengths=one,
        num_decodes=1,
        num_tokens=1,
    )
