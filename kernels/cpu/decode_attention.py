"""Attention of many sequences' single tokens, each over its own slots.

Sequences of like length make a block; in a block the shorter ones are padded with a slot of their
own that is masked. Keys are gathered and multiplied in float32; values are never gathered: a
weighted sum over rows of the cache is what an embedding bag computes.

Invariant: only the sequences' own slots are read, so that free slots may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from kernels.ops import AttentionShape

# Up to so many scores, a sequence by itself is quicker than a block of one.
SINGLE_SCORES = 2048
# A block costs some 25 us of calls, as much as this many padded tokens per key/value head.
BLOCK_COST_TOKENS = 2048
# Keys gathered at a time; more would only leave the processor's caches.
GATHERED_BYTES = 8 << 20


class SingleDecode:
    """One sequence, one query: fewer calls into torch than a block of one."""

    def __init__(self, queries: slice, slots: npt.NDArray[np.int32], shape: AttentionShape) -> None:
        """Plan it; `queries` and `slots` [1, length] as for a block."""
        self.queries = queries
        self._scale = shape.scale
        self._grouped = (1, shape.kv_heads, -1, shape.head_dim)
        self._slots = torch.from_numpy(slots.reshape(-1))

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
        """Compute it: [1, heads, head_dim] to the same, contiguous."""
        # The heads of a group are given as queries of one head: several times as fast as GQA.
        out = functional.scaled_dot_product_attention(
            q.reshape(self._grouped),
            k_cache.index_select(0, self._slots).transpose(0, 1).unsqueeze(0),
            v_cache.index_select(0, self._slots).transpose(0, 1).unsqueeze(0),
            scale=self._scale,
        )
        return out.reshape(q.shape)


class DecodeBlock:
    """Sequences of like length, one query each."""

    def __init__(
        self,
        queries: slice | torch.Tensor,
        slots: npt.NDArray[np.int32],
        lengths: npt.NDArray[np.int64],
        shape: AttentionShape,
    ) -> None:
        """Plan a block.

        Args:
            queries: the block's rows among the step's tokens.
            slots: [sequences, longest] in order of position; what is past a sequence's length
                is ignored.
            lengths: [sequences].
            shape: of attention.
        """
        self.queries = queries
        self._shape = shape
        self._sequences, self._longest = slots.shape
        past = np.arange(self._longest) >= lengths[:, None]
        self._mask: torch.Tensor | None = None
        if past.any():
            slots = np.where(past, slots[:, :1], slots)
            mask = np.where(past, np.float32("-inf"), np.float32(0))
            self._mask = torch.from_numpy(mask).unsqueeze(1)
        # Row numbers in a cache viewed as [slots * kv_heads, head_dim].
        heads = np.arange(shape.kv_heads, dtype=slots.dtype)
        keys = slots[:, None, :] * shape.kv_heads + heads[:, None]
        values = np.repeat(keys, shape.heads // shape.kv_heads, axis=1)
        bags = np.arange(0, values.size + 1, self._longest, dtype=slots.dtype)
        run = max(gathered_tokens(shape) // self._sequences, 1)
        self._key_runs = [
            torch.from_numpy(keys[:, :, start : start + run].reshape(-1))
            for start in range(0, self._longest, run)
        ]
        self._value_rows = torch.from_numpy(values.reshape(-1))
        self._bags = torch.from_numpy(bags)

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
        """Compute the block: [sequences, heads, head_dim] to the same, contiguous."""
        shape = self._shape
        pairs = self._sequences * shape.kv_heads
        queries = (q.float() * shape.scale).reshape(pairs, -1, shape.head_dim)
        keys = k_cache.view(-1, shape.head_dim)
        runs = [_scores(queries, keys.index_select(0, rows)) for rows in self._key_runs]
        scores = runs[0] if len(runs) == 1 else torch.cat(runs, dim=-1)
        scores = scores.view(self._sequences, shape.heads, self._longest)
        if self._mask is not None:
            scores.add_(self._mask)
        weights = scores.softmax(dim=-1).to(v_cache.dtype).view(-1)
        values = v_cache.view(-1, shape.head_dim)
        bags = torch.embedding_bag(
            values, self._value_rows, self._bags, False, 0, False, weights, True
        )
        return bags[0].view(self._sequences, shape.heads, shape.head_dim)


def _scores(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Multiply [pairs, group, head_dim] by as many pairs' keys, laid end to end.

    In float32: rounding scores to bf16 would cost as much precision as everything else together,
    and oneDNN would compile code for every length.
    """
    pairs, _, head_dim = queries.shape
    return torch.bmm(queries, keys.float().view(pairs, -1, head_dim).transpose(1, 2))


def gathered_tokens(shape: AttentionShape) -> int:
    """Tokens whose keys are gathered at a time."""
    return GATHERED_BYTES // (4 * shape.kv_heads * shape.head_dim)


def plan_decodes(
    slot_table: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    shape: AttentionShape,
) -> Iterator[SingleDecode | DecodeBlock]:
    """Put sequences into blocks; their queries are the step's first rows, in the given order.

    Args:
        slot_table: [rows, context].
        rows: [sequences] their rows in the table.
        lengths: [sequences], their own tokens included.
        shape: of attention.
    """
    if len(rows) == 1 and shape.heads * lengths[0] <= SINGLE_SCORES:
        yield SingleDecode(slice(0, 1), slot_table[rows, : lengths[0]], shape)
        return
    longest_first = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[longest_first]
    waste = BLOCK_COST_TOKENS // shape.kv_heads
    most = gathered_tokens(shape)
    for start, stop in split_lengths(sorted_lengths.tolist(), waste, most):
        if stop - start == len(lengths):
            yield DecodeBlock(slice(0, stop), slot_table[rows, : lengths.max()], lengths, shape)
        else:
            own = longest_first[start:stop]
            slots = slot_table[rows[own], : lengths[own[0]]]
            yield DecodeBlock(torch.from_numpy(own), slots, lengths[own], shape)


def split_lengths(lengths: list[int], waste: int, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Split descending lengths into runs that are padded to their first.

    Args:
        lengths: descending.
        waste: tokens of padding that a run may have before a new one is begun.
        most_tokens: of a run, padding included; one sequence may have more.

    Yields:
        Start and stop of each run.
    """
    start, padding = 0, 0
    for index, length in enumerate(lengths):
        padding += lengths[start] - length
        full = (index + 1 - start) * lengths[start] > most_tokens
        if index > start and (full or padding > waste):
            yield start, index
            start, padding = index, 0
    yield start, len(lengths)
