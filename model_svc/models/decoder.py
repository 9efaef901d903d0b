"""The decoder: one forward pass over a ragged batch, composed layer by layer from a spec.

Invariant: options that a spec leaves out cost nothing in the forward pass; layers of one kind share
a step's plan, layers with equal positions its angles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.attention_options import PLAIN, AttentionOptions
from kernels.ops import AttentionChunks, AttentionShape, Captured, Operations
from model_svc.models.batch import Batch, Finals
from model_svc.models.kv_cache import KvCache
from model_svc.models.layer import Add, Layer, Places, Step, norm_of
from model_svc.models.rotary import rope_table
from model_svc.models.spec import AttentionKind, DecoderSpec, RopeSpec
from model_svc.models.weights import DecoderWeights


class Decoder:
    """Runs the model that `spec` describes."""

    def __init__(
        self, spec: DecoderSpec, weights: DecoderWeights, ops: Operations, dtype: torch.dtype
    ) -> None:
        """Compose the forward pass.

        Args:
            spec: of the model.
            weights: packed by the same `ops`, in `dtype`.
            ops: operations to run it with.
            dtype: of activations.
        """
        self.spec = spec
        self._ops = ops
        self._dtype = dtype
        self._weights = weights
        device = weights.embedding.device
        add = _adder(ops, torch.ones(spec.hidden, dtype=dtype, device=device))
        self._final_norm = norm_of(spec.final_norm, weights.final_norm, ops, add)
        kinds: dict[tuple[AttentionKind, int | None], int] = {}
        ropes: dict[RopeSpec, int] = {}
        self._layers: list[Layer] = []
        for number, (layer, own) in enumerate(zip(spec.layers, weights.layers, strict=True)):
            # Sinks are weights of their layer, and part of its plan.
            kind = (layer.attention.kind, number if layer.attention.sinks else None)
            rope = layer.attention.rope
            places = Places(
                plan=kinds.setdefault(kind, len(kinds)),
                angles=None if rope is None else ropes.setdefault(rope, len(ropes)),
            )
            self._layers.append(Layer(layer, own, ops, add, places))
        self._kinds = [
            _Kind(
                kind.shape,
                attention_options(
                    kind, None if number is None else weights.layers[number].sinks, device
                ),
            )
            for kind, number in kinds
        ]
        self._ropes = [rope_table(rope, spec.context_length).to(device) for rope in ropes]

    @torch.inference_mode()
    def forward(self, batch: Batch, kv: KvCache, finals: Finals | None = None) -> torch.Tensor:
        """Run one step; the tokens' keys and values are in `kv` afterwards.

        Args:
            batch: of the step.
            kv: of the batch's sequences.
            finals: tokens with a wanted result; None for all. The last layer computes keys and
                values alone for the others.

        Returns:
            [tokens or finals, hidden] in the decoder's dtype, after the final norm: the argument
            of `logits`.
        """
        ops, weights = self._ops, self._weights
        step = Step(
            slots=batch.slots,
            angles=[ops.rope_angles(table, batch.positions) for table in self._ropes],
            plans=[kind.plan(ops, batch.attention, self._dtype) for kind in self._kinds],
        )
        x, residual = ops.embedding(batch.token_ids, weights.embedding), None
        if weights.positions is not None:
            residual = ops.embedding(batch.positions, weights.positions)
        last = self._layers[-1]
        for layer, k_cache, v_cache in zip(self._layers[:-1], kv.k, kv.v, strict=False):
            x, residual = layer.run(x, residual, step, k_cache, v_cache)
        if finals is not None:
            plans = list(step.plans)
            plans[last.plan] = self._kinds[last.plan].plan(ops, finals.attention, self._dtype)
            step = replace(step, plans=plans, only=finals.rows)
        x, residual = last.run(x, residual, step, kv.k[-1], kv.v[-1])
        return self._final_norm(x, residual)[0]

    @torch.inference_mode()
    def capture(
        self, batch: Batch, kv: KvCache, finals: Finals | None, *, scored: bool = True
    ) -> Captured | None:
        """Record `forward` and `logits`, these in the decoder's dtype: see `Operations.capture`.

        Args:
            batch, kv, finals: arguments of `forward`; a replay reads their contents at that time.
            scored: the vocabulary is scored; otherwise the result is that of `forward`.
        """

        def compute() -> torch.Tensor:
            hidden = self.forward(batch, kv, finals)
            return self._weights.output_head(hidden) if scored else hidden

        return self._ops.capture(compute)

    @torch.inference_mode()
    def logits(self, hidden_rows: torch.Tensor) -> torch.Tensor:
        """Score the vocabulary: [rows, hidden] to [rows, vocab] float32."""
        return self._weights.output_head(hidden_rows).float()


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of attention, ready to be planned for each step."""

    shape: AttentionShape
    options: AttentionOptions

    def plan(self, ops: Operations, chunks: AttentionChunks, dtype: torch.dtype) -> Any:
        return ops.plan_attention(chunks, self.shape, dtype, self.options)


def attention_options(
    kind: AttentionKind, sinks: torch.Tensor | None, device: torch.device
) -> AttentionOptions:
    """Options of a kind of attention as `Operations.plan_attention` takes them."""
    if kind.plain and sinks is None:
        return PLAIN
    slopes = None if kind.slopes is None else torch.tensor(kind.slopes, device=device)
    return AttentionOptions(kind.soft_cap or 0.0, slopes, kind.window or 0, sinks)


def _adder(ops: Operations, ones: torch.Tensor) -> Add:
    """Sum of rows and a residual: the second result of a norm whose first is dropped."""
    return lambda x, residual: ops.rms_norm(x, ones, 1.0, residual)[1]
