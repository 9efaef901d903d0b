"""One layer: attention and MLP, composed from a spec.

Invariant: every choice between forms is made in constructors; a part that a spec leaves out costs
nothing but an empty call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernels.ops import Operations
from model_svc.models.spec import AttentionSpec, LayerSpec, NormKind, NormSpec, Residual
from model_svc.models.weights import DenseWeights, LayerWeights, MoeWeights, NormWeights

Norm = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]
"""Adds a residual, None for zero: the normed sum, and the sum, which is the next residual."""

Add = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Sum of rows and a residual, both of which may be overwritten."""

Rows = Callable[[torch.Tensor], torch.Tensor]
"""Rows to rows, [tokens, hidden]."""


@dataclass(frozen=True, slots=True)
class Step:
    """Values that the layers of one step share."""

    slots: torch.Tensor
    """[tokens] int64."""
    angles: Sequence[Any]
    """Results of `Operations.rope_angles`, one for each rotary table."""
    plans: Sequence[Any]
    """Results of `Operations.plan_attention`, one for each kind of attention."""
    only: torch.Tensor | None = None
    """Rows that attention and all behind it are computed for, as the plans have them; None for
    all."""


@dataclass(frozen=True, slots=True)
class Places:
    """Places of a layer's shared values in a step."""

    plan: int
    angles: int | None
    """None where heads are not rotated."""


class Layer:
    """One layer over its own KV cache."""

    def __init__(
        self, spec: LayerSpec, weights: LayerWeights, ops: Operations, add: Add, places: Places
    ) -> None:
        """Compose the layer.

        Args:
            spec: of the layer.
            weights: packed by the same `ops`.
            ops: operations to compute it with.
            add: sums without a norm.
            places: of its shared values.
        """
        self.plan = places.plan
        self._ops = ops
        self._add = add
        self._attention = _Attention(spec.attention, weights, ops, places)
        self._input_norm = norm_of(spec.input_norm, weights.input_norm, ops, add)
        self._attention_output = _output_norm(
            spec.attention_output_norm, weights.attention_output_norm, ops
        )
        self._mlp_norm = norm_of(spec.mlp_norm, weights.mlp_norm, ops, add)
        self._mlp = _mlp(weights.mlp)
        self._mlp_output = _output_norm(spec.mlp_output_norm, weights.mlp_output_norm, ops)
        self._own_mlp_input = spec.mlp_norm is not None
        parallel = spec.residual is Residual.PARALLEL
        self._finish = self._in_parallel if parallel else self._in_sequence

    def run(
        self, x: torch.Tensor, residual: torch.Tensor | None, step: Step, k_cache: Any, v_cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the layer.

        Args:
            x: [tokens, hidden], to be added to the residual; may be overwritten.
            residual: [tokens, hidden], None for zero; may be overwritten.
            step: of all layers.
            k_cache, v_cache: of this layer.

        Returns:
            As it takes: the rows to be added to the residual, and the residual.
        """
        x, residual = self._input_norm(x, residual)
        q = self._attention.project(x, step, k_cache, v_cache)
        if step.only is not None:
            q = self._ops.take_rows(q, step.only)
            residual = self._ops.take_rows(residual, step.only)
        attended = self._attention.attend(q, step, k_cache, v_cache)
        return self._finish(x, self._attention_output(attended), residual, step)

    def _in_sequence(
        self, x: torch.Tensor, attended: torch.Tensor, residual: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, residual = self._mlp_norm(attended, residual)
        return self._mlp_output(self._mlp(x)), residual

    def _in_parallel(
        self, x: torch.Tensor, attended: torch.Tensor, residual: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._own_mlp_input:
            x, residual = self._mlp_norm(residual, None)
        elif step.only is not None:
            x = self._ops.take_rows(x, step.only)
        x = self._mlp_output(self._mlp(x))
        return x, self._add(attended, residual)


class _Attention:
    """Attention of one layer, in two parts: a step may want fewer queries than keys."""

    def __init__(
        self, spec: AttentionSpec, weights: LayerWeights, ops: Operations, places: Places
    ) -> None:
        self._ops = ops
        self._plan = places.plan
        self._qkv, self._output = weights.qkv, weights.output
        self._qkv_shape = (-1, spec.qkv_heads, spec.head_dim)
        self._positioned = spec.heads + spec.kv_heads
        self._split = (spec.heads, spec.kv_heads, spec.kv_heads)
        self._norm_heads = _head_norm(spec.qk_norm, weights.qk_norm, ops)
        self._rotate = _rotation(spec, ops, places.angles)

    def project(self, x: torch.Tensor, step: Step, k_cache: Any, v_cache: Any) -> torch.Tensor:
        """Store keys and values; the queries, [tokens, heads, head_dim]."""
        heads = self._qkv(x).view(self._qkv_shape)
        positioned = heads[:, : self._positioned]
        self._norm_heads(positioned)
        self._rotate(positioned, step)
        q, k, v = heads.split_with_sizes(self._split, dim=1)
        self._ops.store_kv(k, v, step.slots, k_cache, v_cache)
        return q

    def attend(self, q: torch.Tensor, step: Step, k_cache: Any, v_cache: Any) -> torch.Tensor:
        """Rows to add to the residual, [queries, hidden]."""
        plan = step.plans[self._plan]
        return self._output(self._ops.attention(q, k_cache, v_cache, plan).flatten(1))


def norm_of(spec: NormSpec | None, weights: NormWeights | None, ops: Operations, add: Add) -> Norm:
    """The norm that `spec` describes; the sum itself where it is None."""
    if spec is None or weights is None:
        return lambda x, residual: _twice(x if residual is None else add(x, residual))
    eps, weight, bias = spec.eps, weights.weight, weights.bias
    if spec.kind is NormKind.RMS:
        return lambda x, residual: ops.rms_norm(x, weight, eps, residual)
    return lambda x, residual: ops.layer_norm(x, weight, bias, eps, residual)


def _twice(total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return total, total


def _output_norm(spec: NormSpec | None, weights: NormWeights | None, ops: Operations) -> Rows:
    """Norm of rows that are added to the residual later; None: they stay as they are."""
    if spec is None:
        return lambda x: x
    # Without a residual nothing is added.
    norm = norm_of(spec, weights, ops, torch.add)
    return lambda x: norm(x, None)[0]


def _head_norm(
    spec: NormSpec | None, weight: torch.Tensor | None, ops: Operations
) -> Callable[[torch.Tensor], None]:
    if spec is None or weight is None:
        return lambda heads: None
    eps = spec.eps
    return lambda heads: ops.norm_heads(heads, weight, eps)


def _rotation(
    spec: AttentionSpec, ops: Operations, place: int | None
) -> Callable[[torch.Tensor, Step], None]:
    rope = spec.rope
    if rope is None or place is None:
        return lambda heads, step: None
    columns = rope.rotary_dim
    if columns == spec.head_dim:
        return lambda heads, step: ops.rope(heads, step.angles[place])
    return lambda heads, step: ops.rope(heads[:, :, :columns], step.angles[place])


def _mlp(weights: DenseWeights | MoeWeights) -> Rows:
    if isinstance(weights, DenseWeights):
        up, down = weights.up, weights.down
        return lambda x: down(up(x))
    return weights.experts
