"""What a decoder is: the sizes and options that a checkpoint's config.json comes down to.

Invariant: a `DecoderSpec` says everything the forward pass depends on, but for the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.ops import AttentionShape, Routing


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Slow down the low frequencies of rotary positions, as Llama 3.1 does for long contexts."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    """Context length before scaling, in tokens."""


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Divide every position by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions."""

    theta: float
    scaling: Llama3Scaling | LinearScaling | None = None


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A gated MLP in every layer."""

    intermediate: int
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        """How many weights a layer's MLP has."""
        return 3 * hidden * self.intermediate + self.bias * (2 * self.intermediate + hidden)


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A router and gated experts in every layer."""

    intermediate: int
    """Of one expert."""
    experts: int
    routing: Routing

    def parameters(self, hidden: int) -> int:
        """How many weights a layer's router and experts have."""
        return self.experts * (3 * hidden * self.intermediate + hidden)


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer: pre-norm, rotary positions, grouped-query attention, SiLU."""

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeSpec
    mlp: DenseSpec | MoeSpec
    context_length: int
    """The longest sequence the checkpoint was made for, in tokens."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Whether the projection behind attention has a bias."""
    head_norm: bool = False
    """Whether each query and key head is normed before it is rotated."""
    tied_embeddings: bool = False
    """Whether the output head is the embedding table."""

    @property
    def qkv_heads(self) -> int:
        """Query, key and value heads together: the fused projection's width in heads."""
        return self.heads + 2 * self.kv_heads

    @property
    def attention_shape(self) -> AttentionShape:
        """The sizes attention has in every layer."""
        return AttentionShape(self.heads, self.kv_heads, self.head_dim, self.head_dim**-0.5)

    @property
    def parameters(self) -> int:
        """How many weights there are; tied ones count once."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * q + 2 * kv)
        attention += self.qkv_bias * (q + 2 * kv) + self.output_bias * self.hidden
        attention += self.head_norm * 2 * self.head_dim
        per_layer = attention + self.mlp.parameters(self.hidden) + 2 * self.hidden
        tables = self.vocab_size * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * per_layer + tables + self.hidden
