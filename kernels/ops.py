"""The operations a model may call.

Models are written against `Operations` alone; `kernels.select` binds each operation to an entry of
the table for a device, a dtype and formats. Invariant: every entry computes what the oracle in
`kernels.reference` computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from kernels.attention_options import PLAIN, AttentionOptions
from kernels.formats import WeightFormat
from kernels.layers import Activation, Experts, Linear


@dataclass(frozen=True, slots=True)
class Routing:
    """A token's choice among experts."""

    top_k: int
    """Experts per token, the likeliest."""
    renormalise: bool
    """Their weights are scaled to sum to one."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The sizes that attention has in every layer of one model.

    Query heads `[i * g, (i + 1) * g)` read key/value head `i`, where `g = heads // kv_heads`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    """Factor on query-key products before the softmax."""


@dataclass(frozen=True, slots=True)
class AttentionChunks:
    """Chunks of a step, and the cache slots that their tokens attend to.

    A chunk is what one sequence brings to the step; chunks lie end to end. Chunk `i` owns query
    rows `q_starts[i]:q_starts[i + 1]`; they are the last positions of `kv_lengths[i]`, whose slots
    are `slot_table[rows[i], :kv_lengths[i]]`, and see themselves and what precedes them. Nothing
    past a sequence's length is read, in the table or in the cache.
    """

    slot_table: torch.Tensor
    """[rows, context] int32: the cache slot of each position of each row's sequence."""
    rows: torch.Tensor
    """[chunks] int64."""
    q_starts: torch.Tensor
    """[chunks + 1] int64, from 0 to the number of tokens."""
    kv_lengths: torch.Tensor
    """[chunks] int64, the chunk's own tokens included."""
    num_decodes: int
    """The first so many chunks have one token each."""
    num_tokens: int | None = None
    """`q_starts[-1]`, where the host knows it; what needs it asks the device otherwise."""


class Captured(Protocol):
    """A computation that can be run again without the code that made it."""

    def replay(self) -> torch.Tensor:
        """Compute with what the tensors that are read hold now.

        Returns:
            The result, whose memory the next capture or replay of the same operations may use.

        Raises:
            Outgrown: sequences have become too long for the memory set aside; capture anew.
            IndexError: a token, position or slot does not exist.
        """
        ...


class Outgrown(Exception):
    """A captured computation has too little memory for its sequences."""


class Operations(Protocol):
    """Operations of a model. Floating tensors of one call share one dtype unless said."""

    def pack_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, format: WeightFormat | None = None
    ) -> Linear:
        """Make a linear layer, in the form that multiplies fastest; `weight` may then be freed.

        Args:
            weight: [outputs, inputs].
            bias: [outputs], or None for none.
            format: of the packed weights; None for the one that the operations were selected with.

        Raises:
            UnsupportedDevice: this device has no product of the format.
        """
        ...

    def pack_gated(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: WeightFormat | None = None,
        activation: Activation = "silu",
        *,
        takes_context: bool = False,
    ) -> Linear:
        """Make a linear layer of gates, then as many ups, that gives `activation(gate) * up`.

        Args:
            weight: [2 * intermediate, inputs].
            bias: [2 * intermediate], or None for none.
            format: as for `pack_linear`.
            activation: of the gates.
            takes_context: calls may have a context, so products and gating are not fused.
        """
        ...

    def pack_activated(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: WeightFormat | None = None,
        activation: Activation = "gelu",
    ) -> Linear:
        """Make a linear layer that gives `activation` of its products.

        Args:
            weight: [outputs, inputs].
            bias: [outputs], or None for none.
            format: as for `pack_linear`.
            activation: of the products.
        """
        ...

    def pack_experts(
        self,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        routing: Routing,
        format: WeightFormat | None = None,
    ) -> Experts:
        """Make the experts of one layer; the arguments may then be freed.

        Args:
            router: [experts, hidden], the linear layer that scores them; it stays dense.
            gate_up: [experts, 2 * intermediate, hidden], gate rows before up rows.
            down: [experts, hidden, intermediate].
            routing: a token's choice among them.
            format: of the experts, as for `pack_linear`.
        """
        ...

    def capture(self, compute: Callable[[], torch.Tensor]) -> Captured | None:
        """Record the operations that `compute` calls, without running them.

        Args:
            compute: calls these operations, layers and experts packed by them and nothing else but
                views; what it reads must stay where it is for as long as it is replayed.

        Returns:
            None where an operation or a layer cannot be recorded.
        """
        ...

    def embedding(self, token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Rows of `table` [vocab, hidden] for `token_ids` [tokens] int64: [tokens, hidden]."""
        ...

    def take_rows(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows of `x` [tokens, ...], of any strides, so numbered [taken] int64: [taken, ...]."""
        ...

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` to `x`, and divide by the root mean square of each row.

        Args:
            x: [tokens, hidden]; may be overwritten.
            weight: [hidden], factor of each column after the division.
            eps: added to the mean square.
            residual: [tokens, hidden], or None for zero; may be overwritten.

        Returns:
            The normed rows, and the sum before the norm (the next residual).

        Source: Zhang & Sennrich 2019, section 4.
        """
        ...

    def layer_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` to `x`, and bring each row to mean zero and variance one.

        Args:
            x: [tokens, hidden]; may be overwritten.
            weight: [hidden], factor of each column after the norm.
            bias: [hidden], added after the factor; None for zero.
            eps: added to the variance, which is divided by `hidden`.
            residual: [tokens, hidden], or None for zero; may be overwritten.

        Returns:
            The normed rows, and the sum before the norm (the next residual).

        Source: Ba et al. 2016, section 3.
        """
        ...

    def norm_heads(self, heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """Divide each head by its root mean square and multiply by its weights, in place.

        Args:
            heads: [tokens, heads, head_dim], any strides.
            weight: [heads, head_dim].
            eps: added to the mean square.
        """
        ...

    def rope_angles(self, table: torch.Tensor, positions: torch.Tensor) -> Any:
        """Look up once per step what `rope` needs in every layer.

        Args:
            table: [context, head_dim] float32, cosines then sines of each position's angles.
            positions: [tokens] int64.
        """
        ...

    def rope(self, heads: torch.Tensor, angles: Any) -> None:
        """Rotate every head by its token's angles, in place; first half paired with second half.

        Args:
            heads: [tokens, heads, head_dim], any strides.
            angles: what `rope_angles` gave for these tokens.

        Source: Su et al. 2021, section 3.4.2 (with GPT-NeoX's pairing).
        """
        ...

    def store_kv(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        k_cache: Any,
        v_cache: Any,
    ) -> None:
        """Write row `i` of `k` and `v` into cache row `slots[i]`, in place.

        Args:
            k, v: [tokens, kv_heads, head_dim], any strides.
            slots: [tokens] int64, distinct.
            k_cache, v_cache: [slots, kv_heads, head_dim]; `Int8Rows` where the cache has int8.
        """
        ...

    def plan_attention(
        self,
        chunks: AttentionChunks,
        shape: AttentionShape,
        dtype: torch.dtype,
        options: AttentionOptions = PLAIN,
    ) -> Any:
        """Work out once per step what `attention` needs in every layer of one kind.

        Args:
            chunks: of the step.
            shape: of the layers' attention.
            dtype: of their queries.
            options: of their attention.

        Raises:
            UnsupportedDevice: these operations lack one of the options; the message names it.
        """
        ...

    def attention(self, q: torch.Tensor, k_cache: Any, v_cache: Any, plan: Any) -> torch.Tensor:
        """Causal attention of every chunk over its sequence's slots.

        Args:
            q: [tokens, heads, head_dim], any strides.
            k_cache, v_cache: as `store_kv` takes them, the step's own tokens already stored.
            plan: what `plan_attention` gave for this step.

        Returns:
            [tokens, heads, head_dim], contiguous.
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`silu(gate) * up` of [tokens, 2 * intermediate], gate before up; may overwrite it."""
        ...

    def gelu_mul(self, gate_up: torch.Tensor, approximate: Literal["tanh", "none"]) -> torch.Tensor:
        """`gelu(gate) * up`, as `silu_mul`; "tanh" approximates GELU, "none" is GELU itself."""
        ...
