"""Attention of one sequence's chunk with a soft cap, ALiBi, a window or sinks.

Scores are held whole, so this serves where there is no faster kernel of the options. Invariant:
only the sequence's own slots are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from kernels.attention_options import AttentionOptions
from kernels.ops import AttentionShape


class ChunkWithOptions:
    """One chunk of a step: its queries, its slots, and what is added to its scores."""

    def __init__(
        self,
        queries: slice,
        slots: npt.NDArray[np.int32],
        shape: AttentionShape,
        options: AttentionOptions,
    ) -> None:
        """Plan a chunk.

        Args:
            queries: its rows among the step's tokens.
            slots: [length] those of its sequence, in order of position, its own included.
            shape: of attention.
            options: of attention.
        """
        self.queries = queries
        self._shape = shape
        self._options = options
        self._slots = torch.from_numpy(slots.copy())
        positions = torch.arange(len(slots))
        first = len(slots) - (queries.stop - queries.start)
        self._distance = positions[first:, None] - positions[None, :]
        self._hidden = self._distance < 0
        if options.window:
            self._hidden = self._hidden | (self._distance >= options.window)

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
        """Compute the chunk: [count, heads, head_dim] to the same, contiguous.

        Computed in float32, or in float64 if `q` is.
        """
        shape, wide = self._shape, torch.promote_types(q.dtype, torch.float32)
        grouped = q.to(wide).reshape(len(q), shape.kv_heads, -1, shape.head_dim)
        k, v = (cache.index_select(0, self._slots).to(wide) for cache in (k_cache, v_cache))
        scores = torch.einsum("qhgd,khd->hgqk", grouped, k).flatten(0, 1).mul_(shape.scale)
        weights = self._weights(scores).view(shape.kv_heads, -1, *scores.shape[1:])
        return torch.einsum("hgqk,khd->qhgd", weights, v).to(q.dtype).reshape(q.shape)

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        """Softmax of [heads, queries, keys] with the options; sinks take their share."""
        options = self._options
        if options.soft_cap:
            scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
        if options.alibi_slopes is not None:
            scores -= options.alibi_slopes.to(scores.dtype)[:, None, None] * self._distance
        scores = scores.masked_fill_(self._hidden, float("-inf"))
        if options.sinks is None:
            return scores.softmax(dim=-1)
        sinks = options.sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.cat((scores, sinks), dim=-1).softmax(dim=-1)[..., :-1]
