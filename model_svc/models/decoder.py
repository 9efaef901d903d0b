"""The decoder: one forward pass over a ragged batch, composed from a spec.

Invariant: what a spec leaves out costs nothing in the forward pass; every choice between
families is made in the constructors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.layers import Experts, Linear
from kernels.ops import Captured, Operations
from model_svc.models.batch import Batch, Finals
from model_svc.models.kv_cache import KvCache
from model_svc.models.rotary import rope_table
from model_svc.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """A gated MLP."""

    gated: Linear
    """Gate and up projections in one, and their gating."""
    down: Linear


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """A router and its experts."""

    experts: Experts


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, packed."""

    input_norm: torch.Tensor
    qkv: Linear
    """Query, key and value projections in one."""
    head_norm: torch.Tensor | None
    """[heads + kv_heads, head_dim], the weight of every query and key head, or None."""
    output: Linear
    mlp_norm: torch.Tensor
    mlp: DenseWeights | MoeWeights


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights of a decoder, packed for one set of operations."""

    embedding: torch.Tensor
    layers: list[LayerWeights]
    final_norm: torch.Tensor
    output_head: Linear


class Decoder:
    """Runs the model that `spec` describes."""

    def __init__(
        self, spec: DecoderSpec, weights: DecoderWeights, ops: Operations, dtype: torch.dtype
    ) -> None:
        """Compose the forward pass.

        Args:
            spec: what to run.
            weights: packed by the same `ops`, in `dtype`.
            ops: the operations to run it with.
            dtype: of activations and KV cache.
        """
        self.spec = spec
        self._ops = ops
        self._dtype = dtype
        self._shape = spec.attention_shape
        self._embedding = weights.embedding
        self._final_norm = weights.final_norm
        self._output_head = weights.output_head
        device = str(weights.embedding.device)
        self._rope = rope_table(spec.rope, spec.head_dim, spec.context_length).to(device)
        self._layers = [_Layer(spec, layer, ops) for layer in weights.layers]

    @torch.inference_mode()
    def forward(self, batch: Batch, kv: KvCache, finals: Finals | None = None) -> torch.Tensor:
        """Run one step; the tokens' keys and values are in `kv` afterwards.

        Args:
            batch: what to compute.
            kv: of the batch's sequences.
            finals: the tokens that a result is wanted for; None for all. The last layer spares
                the others all but their keys and values.

        Returns:
            [tokens or finals, hidden] in the decoder's dtype, after the final norm: what `logits`
            takes.
        """
        ops = self._ops
        step = _Step(
            angles=ops.rope_angles(self._rope, batch.positions),
            slots=batch.slots,
            plan=ops.plan_attention(batch.attention, self._shape, self._dtype),
        )
        x, residual = ops.embedding(batch.token_ids, self._embedding), None
        for layer, k_cache, v_cache in zip(self._layers[:-1], kv.k, kv.v, strict=False):
            x, residual = layer.run(x, residual, step, k_cache, v_cache)
        if finals is not None:
            plan = ops.plan_attention(finals.attention, self._shape, self._dtype)
            step = replace(step, plan=plan, only=finals.rows)
        x, residual = self._layers[-1].run(x, residual, step, kv.k[-1], kv.v[-1])
        return ops.rms_norm(x, self._final_norm, self.spec.norm_eps, residual)[0]

    @torch.inference_mode()
    def capture(
        self, batch: Batch, kv: KvCache, finals: Finals | None, *, scored: bool = True
    ) -> Captured | None:
        """Take down `forward` and `logits`, these in the decoder's dtype: see `Operations.capture`.

        Args:
            batch, kv, finals: as `forward` takes them; a replay reads what they hold then.
            scored: whether the vocabulary is scored; otherwise the result is that of `forward`.
        """

        def compute() -> torch.Tensor:
            hidden = self.forward(batch, kv, finals)
            return self._output_head(hidden) if scored else hidden

        return self._ops.capture(compute)

    @torch.inference_mode()
    def logits(self, hidden_rows: torch.Tensor) -> torch.Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab] float32."""
        return self._output_head(hidden_rows).float()


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of one step share."""

    angles: Any
    slots: torch.Tensor
    plan: Any
    only: torch.Tensor | None = None
    """Rows that attention and what follows are computed for, as `plan` has them; None for all."""


class _Layer:
    """Attention, then MLP or experts, each behind a norm and beside a residual."""

    def __init__(self, spec: DecoderSpec, weights: LayerWeights, ops: Operations) -> None:
        self._ops = ops
        self._weights = weights
        self._eps = spec.norm_eps
        self._qkv_shape = (-1, spec.qkv_heads, spec.head_dim)
        self._rotated = spec.heads + spec.kv_heads
        self._split = (spec.heads, spec.kv_heads, spec.kv_heads)
        self._norm_heads = _head_norm(weights.head_norm, spec.norm_eps, ops)
        self._mlp = _mlp(weights.mlp, ops)

    def run(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        step: _Step,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take and return what is to be added to the residual, and the residual."""
        ops, weights = self._ops, self._weights
        x, residual = ops.rms_norm(x, weights.input_norm, self._eps, residual)
        heads = weights.qkv(x).view(self._qkv_shape)
        rotated = heads[:, : self._rotated]
        self._norm_heads(rotated)
        ops.rope(rotated, step.angles)
        q, k, v = heads.split_with_sizes(self._split, dim=1)
        ops.store_kv(k, v, step.slots, k_cache, v_cache)
        if step.only is not None:
            q, residual = ops.take_rows(q, step.only), ops.take_rows(residual, step.only)
        x = weights.output(ops.attention(q, k_cache, v_cache, step.plan).flatten(1))
        x, residual = ops.rms_norm(x, weights.mlp_norm, self._eps, residual)
        return self._mlp(x), residual


def _head_norm(
    weight: torch.Tensor | None, eps: float, ops: Operations
) -> Callable[[torch.Tensor], None]:
    if weight is None:
        return lambda heads: None
    return lambda heads: ops.norm_heads(heads, weight, eps)


def _mlp(
    weights: DenseWeights | MoeWeights, ops: Operations
) -> Callable[[torch.Tensor], torch.Tensor]:
    if isinstance(weights, DenseWeights):
        gated, down = weights.gated, weights.down
        return lambda x: down(gated(x))
    return weights.experts
