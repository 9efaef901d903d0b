"""A planned step: its chunks as values, and the sequences that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

from model_svc.scheduling.sequence import Int64s, Sequence
from model_svc.scheduling.slot_pool import Slots
from model_svc.scheduling.step import Chunks


@dataclass(frozen=True, slots=True)
class Started:
    """A sequence that was given a row.

    Attributes:
        sequence: which.
        shared_slots: [shared] int32, slots of its first positions, held for another row too.
    """

    sequence: Sequence
    shared_slots: Slots


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class Plan:
    """One engine step.

    Attributes:
        chunks: what is computed.
        sequences: of each chunk.
        drawing: sequence of each draw.
        generations: [draws] int64, of the rows that tokens are drawn for.
        moves: how often rows had changed hands when it was planned.
        started: sequences that were given rows, in order.
        preempted: sequences that lost theirs.
        exhausted: sequences that are computed to their last token and draw none.
    """

    chunks: Chunks
    sequences: list[Sequence]
    drawing: list[Sequence]
    generations: Int64s
    moves: int
    started: list[Started]
    preempted: list[Sequence]
    exhausted: list[Sequence]

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return len(self.chunks.slots)
