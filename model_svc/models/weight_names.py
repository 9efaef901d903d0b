"""Names of tensors in a family's checkpoints, and the form in which they are stored.

Invariant: data alone; `model_svc.weights.sources` works out places and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_LAYER = "model.layers.{layer}."


@dataclass(frozen=True, slots=True)
class FusedQkv:
    """Query, key and value projections in one tensor, which q, k and v all name."""

    order: str = "qkv"
    groups: int | None = 1
    """Blocks of rows that repeat the order, each with its share of all heads; None: one block for
    each key/value head."""


class GateUp(Enum):
    """Form of the gate and up projections."""

    SEPARATE = "separate"
    HALVES = "halves"
    """One tensor, all gates before all ups; gate and up both name it."""
    ALTERNATING = "alternating"
    """One tensor, each gate in front of its up."""


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names without their `.weight` or `.bias`, with places for layer and expert.

    Experts with a name without a place for their number are stacked in one tensor, number first.
    """

    embedding: str = "model.embed_tokens"
    positions: str = "model.embed_positions"
    final_norm: str = "model.norm"
    output_head: str = "lm_head"
    input_norm: str = _LAYER + "input_layernorm"
    q: str = _LAYER + "self_attn.q_proj"
    k: str = _LAYER + "self_attn.k_proj"
    v: str = _LAYER + "self_attn.v_proj"
    q_norm: str = _LAYER + "self_attn.q_norm"
    k_norm: str = _LAYER + "self_attn.k_norm"
    sinks: str = _LAYER + "self_attn.sinks"
    """The whole name."""
    output: str = _LAYER + "self_attn.o_proj"
    attention_output_norm: str = _LAYER + "post_attention_layernorm"
    mlp_norm: str = _LAYER + "post_attention_layernorm"
    gate: str = _LAYER + "mlp.gate_proj"
    up: str = _LAYER + "mlp.up_proj"
    down: str = _LAYER + "mlp.down_proj"
    mlp_output_norm: str = _LAYER + "post_feedforward_layernorm"
    router: str = _LAYER + "mlp.gate"
    expert_gate: str = _LAYER + "mlp.experts.{expert}.gate_proj"
    expert_up: str = _LAYER + "mlp.experts.{expert}.up_proj"
    expert_down: str = _LAYER + "mlp.experts.{expert}.down_proj"
    qkv: FusedQkv | None = None
    """None: three tensors."""
    gate_up: GateUp = GateUp.SEPARATE
    transposed: bool = False
    """Projections are stored as [inputs, outputs]."""
    interleaved_rope: bool = False
    """Rotated columns are paired with their neighbours, not with the other half."""
    norm_offset: float = 0.0
    """Added to the weight of every norm; 1 where checkpoints store the difference to 1."""
