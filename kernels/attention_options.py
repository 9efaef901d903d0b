"""Additions to scaled dot-product attention, and the scales of a quantised cache.

Invariant: `AttentionOptions()` is plain causal attention; an option left at its default costs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Additions of a layer's attention, in the order in which they are applied to the scores."""

    soft_cap: float = 0.0
    """Scores become `soft_cap * tanh(score / soft_cap)`; 0 for no cap."""
    alibi_slopes: torch.Tensor | None = None
    """[heads] float32: each score loses its head's slope times the distance of query and key."""
    window: int = 0
    """Positions that a query sees, its own included; 0 for all."""
    sinks: torch.Tensor | None = None
    """[heads] float32: the score of one more key per head, whose value is zero."""

    def names(self) -> str:
        """Names of the options that are set, for people; empty for plain attention."""
        given = {
            "soft cap": self.soft_cap != 0.0,
            "ALiBi": self.alibi_slopes is not None,
            "window": self.window != 0,
            "sinks": self.sinks is not None,
        }
        return ", ".join(name for name, is_set in given.items() if is_set)


PLAIN = AttentionOptions()


@dataclass(frozen=True, slots=True)
class KvScales:
    """Factors of the int8 rows of a cache."""

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
