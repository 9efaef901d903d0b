"""Tokens of one step, laid end to end without padding.

Invariant: every tensor of a batch describes the same tokens in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from kernels.ops import AttentionChunks


@dataclass(frozen=True, slots=True)
class Finals:
    """The last tokens of some of a batch's chunks."""

    rows: torch.Tensor
    """[finals] int64, among the batch's tokens."""
    attention: AttentionChunks
    """Each by itself, over its whole sequence."""


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class Batch:
    """Tokens of one forward pass."""

    token_ids: torch.Tensor
    """[tokens] int64."""
    positions: torch.Tensor
    """[tokens] int64, from 0 in each sequence."""
    slots: torch.Tensor
    """[tokens] int64: where each token's K and V are stored."""
    attention: AttentionChunks

    @classmethod
    def build(
        cls,
        token_ids: npt.NDArray[np.integer],
        rows: npt.NDArray[np.integer],
        starts: npt.NDArray[np.integer],
        counts: npt.NDArray[np.integer],
        slot_table: npt.NDArray[np.int32],
    ) -> Batch:
        """Lay chunks of sequences end to end.

        Chunks of one token in front of the longer ones are decodes and run fastest; elsewhere
        they are computed as chunks of a prompt, to the same result.

        Args:
            token_ids: [tokens] the chunks' tokens, in the order of the chunks.
            rows: [chunks] the row of each chunk's sequence in `slot_table`.
            starts: [chunks] position of each chunk's first token, the number of cached ones.
            counts: [chunks] tokens of each chunk, at least one.
            slot_table: [rows, context]; holds the slots of the chunks' own tokens already.
                Shared with the batch, not copied: it must not change until the step has run.
        """
        rows = rows.astype(np.int64, copy=False)
        starts = starts.astype(np.int64, copy=False)
        counts = counts.astype(np.int64, copy=False)
        decodes, tokens = _leading_ones(counts), int(counts.sum())
        if decodes == len(counts):
            q_starts, positions, owners = np.arange(tokens + 1), starts, rows
        else:
            q_starts = np.zeros(len(counts) + 1, dtype=np.int64)
            np.cumsum(counts, out=q_starts[1:])
            positions = np.arange(tokens) + np.repeat(starts - q_starts[:-1], counts)
            owners = np.repeat(rows, counts)
        slots = slot_table[owners, positions].astype(np.int64)
        return cls(
            token_ids=torch.from_numpy(token_ids.astype(np.int64, copy=False)),
            positions=torch.from_numpy(positions),
            slots=torch.from_numpy(slots),
            attention=AttentionChunks(
                slot_table=torch.from_numpy(slot_table),
                rows=torch.from_numpy(rows),
                q_starts=torch.from_numpy(q_starts),
                kv_lengths=torch.from_numpy(starts + counts),
                num_decodes=decodes,
                num_tokens=tokens,
            ),
        )

    def on(self, device: torch.device) -> Batch:
        """The same batch on `device`, with the part of the slot table that the step reads."""
        if self.token_ids.device.type == device.type:
            return self
        chunks = self.attention
        longest = int(chunks.kv_lengths.max())
        return Batch(
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            slots=self.slots.to(device),
            attention=replace(
                chunks,
                slot_table=chunks.slot_table[chunks.rows, :longest].to(device),
                rows=torch.arange(len(chunks.rows), device=device),
                q_starts=chunks.q_starts.to(device),
                kv_lengths=chunks.kv_lengths.to(device),
            ),
        )

    def finals(self, numbers: Sequence[int]) -> Finals:
        """The last tokens of the chunks so numbered, one at least."""
        chunks = self.attention
        chosen = torch.tensor(numbers, device=chunks.rows.device)
        attention = replace(
            chunks,
            rows=chunks.rows[chosen],
            q_starts=torch.arange(len(numbers) + 1, device=chosen.device),
            kv_lengths=chunks.kv_lengths[chosen],
            num_decodes=len(numbers),
            num_tokens=len(numbers),
        )
        return Finals(chunks.q_starts[chosen + 1] - 1, attention)


class DecodeBatch:
    """A batch of decodes in memory of its own, which captured steps read and each step rewrites."""

    def __init__(self, decodes: int, slot_table: npt.NDArray[np.int32]) -> None:
        """Have room for so many `decodes` of rows of `slot_table`, which is shared."""
        self._token_ids, self._positions, self._slots, self._rows, self._kv_lengths = np.zeros(
            (5, decodes), np.int64
        )
        self.batch = Batch(
            token_ids=torch.from_numpy(self._token_ids),
            positions=torch.from_numpy(self._positions),
            slots=torch.from_numpy(self._slots),
            attention=AttentionChunks(
                slot_table=torch.from_numpy(slot_table),
                rows=torch.from_numpy(self._rows),
                q_starts=torch.arange(decodes + 1),
                kv_lengths=torch.from_numpy(self._kv_lengths),
                num_decodes=decodes,
                num_tokens=decodes,
            ),
        )

    def write(
        self,
        token_ids: npt.NDArray[np.integer],
        rows: npt.NDArray[np.integer],
        positions: npt.NDArray[np.integer],
        slots: npt.NDArray[np.integer],
    ) -> None:
        """Become the decodes of these tokens; each [decodes]."""
        self._token_ids[:] = token_ids
        self._positions[:] = positions
        self._slots[:] = slots
        self._rows[:] = rows
        np.add(self._positions, 1, out=self._kv_lengths)


def _leading_ones(counts: npt.NDArray[np.integer]) -> int:
    longer = (counts > 1).argmax()
    return int(longer) if counts[longer] > 1 else len(counts)
