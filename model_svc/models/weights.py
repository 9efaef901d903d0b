"""Weights of a decoder, packed for one set of operations.

Invariant: None stands for a part that the spec leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.layers import Experts, Linear


@dataclass(frozen=True, slots=True)
class NormWeights:
    """A norm."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """An MLP."""

    up: Linear
    """Gate and up projections in one with their gating, or up with its activation."""
    down: Linear


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """A router and its experts."""

    experts: Experts


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer."""

    input_norm: NormWeights | None
    qkv: Linear
    """Query, key and value projections in one."""
    qk_norm: torch.Tensor | None
    """[heads + kv_heads, head_dim], the weight of every query and key head."""
    sinks: torch.Tensor | None
    """[heads] float32."""
    output: Linear
    attention_output_norm: NormWeights | None
    mlp_norm: NormWeights | None
    mlp: DenseWeights | MoeWeights
    mlp_output_norm: NormWeights | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights."""

    embedding: torch.Tensor
    positions: torch.Tensor | None
    """[context, hidden], embeddings of positions."""
    layers: list[LayerWeights]
    final_norm: NormWeights
    output_head: Linear
