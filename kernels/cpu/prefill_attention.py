"""Attention of one sequence's chunk over its cached prefix and itself.

Invariant: only the sequence's own slots are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from kernels.ops import AttentionShape


class PromptChunk:
    """One chunk of a step: which queries, which slots, who sees what."""

    def __init__(
        self,
        queries: slice,
        slots: npt.NDArray[np.int32],
        shape: AttentionShape,
        dtype: torch.dtype,
    ) -> None:
        """Plan a chunk.

        Args:
            queries: its rows among the step's tokens.
            slots: [length] those of its sequence, in order of position, its own included.
            shape: of attention.
            dtype: of the queries; the cache's rows are computed with in it.
        """
        self.queries = queries
        count, length = queries.stop - queries.start, len(slots)
        self._scale = shape.scale
        self._causal = 1 < count == length
        self._mask: torch.Tensor | None = None
        if 1 < count < length:
            slots = slots[::-1]
            self._mask = _mask_over_reversed_keys(count, length, dtype)
        self._slots = torch.from_numpy(slots.copy())

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
        """Compute the chunk: [count, heads, head_dim] to the same, contiguous."""
        out = functional.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),
            k_cache.index_select(0, self._slots).to(q.dtype).transpose(0, 1).unsqueeze(0),
            v_cache.index_select(0, self._slots).to(q.dtype).transpose(0, 1).unsqueeze(0),
            attn_mask=self._mask,
            is_causal=self._causal,
            scale=self._scale,
            enable_gqa=True,
        )
        return out.squeeze(0).transpose(0, 1).contiguous()


def _mask_over_reversed_keys(count: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive causal mask of the last `count` positions, the keys taken last to first.

    With reversed keys an entry depends on query + key alone, so the whole [count, length] mask is
    a view of `count + length - 1` numbers: a long prompt's chunks need no large masks.
    """
    numbers = torch.zeros(count + length - 1, dtype=dtype)
    numbers[: count - 1] = float("-inf")
    return numbers.as_strided((count, length), (1, 1))
