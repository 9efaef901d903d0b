"""Sizes and options of a decoder, layer by layer, as a checkpoint's config.json gives them.

Invariant: a `DecoderSpec` holds all that the forward pass depends on, except the weights. Specs are
values: equal parts of two layers compare equal and share their attention plans and rotary tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kernels.formats import WeightFormat
from kernels.layers import Activation
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
    """Rotary positions; the first half of the rotated columns is paired with the second."""

    theta: float
    rotary_dim: int
    """Leading columns of each head that are rotated, even."""
    scaling: Llama3Scaling | LinearScaling | None = None


@dataclass(frozen=True, slots=True)
class AlibiSpec:
    """Positions as a penalty on distance: scores lose slope times distance."""

    slopes: tuple[float, ...]
    """One for each query head."""


class NormKind(Enum):
    """Normalisation of a row."""

    RMS = "rms"
    """Divide by the root mean square."""
    LAYER = "layer"
    """Subtract the mean, divide by the standard deviation."""


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A norm with a weight for each column."""

    eps: float
    kind: NormKind = NormKind.RMS
    bias: bool = False


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Rows that one token leaves in one layer's cache."""

    heads: int
    key_dim: int
    value_dim: int
    shared: bool = False
    """The values are the first `value_dim` columns of the keys and take no memory of their own."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Columns of each tensor that is stored for a head."""
        return (self.key_dim,) if self.shared else (self.key_dim, self.value_dim)


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Keys and values as projections of one latent row of each token (multi-head latent attention).

    Source: DeepSeek-V2 2024, section 2.1.
    """

    rank: int
    """Columns of the latent row, which values are projected from."""
    rotary_dim: int
    """Columns beside it that carry the position, shared by all heads."""


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """Attention apart from its weights; layers of one kind share a plan in each step."""

    shape: AttentionShape
    slopes: tuple[float, ...] | None
    """See `AlibiSpec`."""
    window: int | None
    soft_cap: float | None

    @property
    def plain(self) -> bool:
        """Causal attention and nothing else."""
        return self.slopes is None and self.window is None and self.soft_cap is None


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention of one layer."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    """Factor on query-key products."""
    positions: RopeSpec | AlibiSpec | None
    """None: the order of tokens is told by the mask alone, or by embeddings of positions."""
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: NormSpec | None = None
    """Norm of each query and key head before it is rotated."""
    window: int | None = None
    """Positions that a query sees, its own included; None for all."""
    soft_cap: float | None = None
    """Scores become `soft_cap * tanh(score / soft_cap)`; None: they stay."""
    sinks: bool = False
    """Each query head has one more key with a learned score and no value."""
    latent: LatentSpec | None = None
    """None: keys and values are cached as they are."""

    @property
    def rope(self) -> RopeSpec | None:
        """Rotary positions; None where heads are not rotated."""
        return self.positions if isinstance(self.positions, RopeSpec) else None

    @property
    def qkv_heads(self) -> int:
        """Query, key and value heads together: the fused projection's width in heads."""
        return self.heads + 2 * self.kv_heads

    @property
    def kind(self) -> AttentionKind:
        """The part that a step's plan depends on."""
        shape = AttentionShape(self.heads, self.kv_heads, self.head_dim, self.scale)
        slopes = self.positions.slopes if isinstance(self.positions, AlibiSpec) else None
        return AttentionKind(shape, slopes, self.window, self.soft_cap)

    @property
    def kv_layout(self) -> KvLayout:
        """Rows that a token leaves in the cache."""
        if self.latent is None:
            return KvLayout(self.kv_heads, self.head_dim, self.head_dim)
        rank = self.latent.rank
        return KvLayout(1, rank + self.latent.rotary_dim, rank, shared=True)


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """An MLP that every token passes."""

    intermediate: int
    bias: bool = False
    activation: Activation = "silu"
    gated: bool = True
    """`down(activation(gate(x)) * up(x))`; otherwise `down(activation(up(x)))`."""


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """A router and gated experts."""

    intermediate: int
    """Of one expert."""
    experts: int
    routing: Routing
    activation: Activation = "silu"


class Residual(Enum):
    """Inputs of a layer's MLP."""

    SEQUENTIAL = "sequential"
    """The sum of the layer's input and its attention."""
    PARALLEL = "parallel"
    """The layer's input; attention and MLP are added to it together."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer: attention and MLP, the norms around them and the sums between them.

    Four norms are sandwich norms; without the first and third, outputs alone are normed.
    """

    attention: AttentionSpec
    mlp: DenseSpec | MoeSpec
    input_norm: NormSpec | None
    mlp_norm: NormSpec | None
    """Norm in front of the MLP. None: a parallel MLP shares the input of attention."""
    attention_output_norm: NormSpec | None = None
    """Norm of attention's output."""
    mlp_output_norm: NormSpec | None = None
    """Norm of the MLP's output."""
    residual: Residual = Residual.SEQUENTIAL
    output_scale: float = 1.0
    """Factor on both outputs; settled when weights are read."""
    weight_format: WeightFormat | None = None
    """Format of packed weights; None: the one that the operations were selected with."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer."""

    vocab_size: int
    hidden: int
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec
    context_length: int
    """The longest sequence the checkpoint was made for, in tokens."""
    tied_embeddings: bool = False
    """The output head is the embedding table."""
    learned_positions: int | None = None
    """Rows in front of position 0 in the table of position embeddings; None: no such table."""
    embedding_scale: float = 1.0
    """Factor on embeddings; settled when weights are read, as is the next."""
    logit_scale: float = 1.0
    """Factor on the output head."""
    head_format: WeightFormat | None = None
    """Format of the packed output head, as `LayerSpec.weight_format`."""
