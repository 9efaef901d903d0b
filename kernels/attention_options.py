"""What attention may add to scaled dot products, and how a quantised cache is scaled.

Invariant: `AttentionOptions()` is plain causal attention; an option left at its default costs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What a layer's attention adds, in the order in which it is applied to the scores."""

    soft_cap: float = 0.0
    """Scores become `soft_cap * tanh(score / soft_cap)`; 0 for no cap."""
    alibi_slopes: torch.Tensor | None = None
    """[heads] float32: each score loses its head's slope times the distance of query and key."""
    window: int = 0
    """How many positions a query sees, its own included; 0 for all."""
    sinks: torch.Tensor | None = None
    """[heads] float32: the score of one more key per head, whose value is zero."""


@dataclass(frozen=True, slots=True)
class KvScales:
    """What the int8 rows of a cache are multiplied by."""

    k: torch.Tensor
    """[slots, kv_heads] float16."""
    v: torch.Tensor
    """[slots, kv_heads] float16."""


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """The keys, or the values, of one layer of a quantised cache."""

    rows: torch.Tensor
    """[slots, kv_heads, head_dim] int8."""
    scales: torch.Tensor
    """[slots, kv_heads] float16."""
