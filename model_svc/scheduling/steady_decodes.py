"""Plans of decodes that repeat: the same rows again, each a token further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_svc.sampling.row_index import index_of
from model_svc.scheduling.plan import Plan
from model_svc.scheduling.sequence import RowNumbers
from model_svc.scheduling.slot_pool import SlotPool, Slots
from model_svc.scheduling.step import Chunks

_NO_DRAFTS = np.empty(0, np.int32)


@dataclass(slots=True)
class SteadyDecodes:
    """A plan in which every running sequence was decoded, and the steps that may repeat it.

    Attributes:
        plan: the plan to repeat.
        steps: steps until some sequence reaches its limit.
    """

    plan: Plan
    steps: int

    @classmethod
    def of(cls, plan: Plan, numbers: RowNumbers, running: int) -> SteadyDecodes | None:
        """Repetitions of `plan`; None where it has another chunk or draw than its decodes."""
        rows = plan.chunks.rows
        if plan.chunks.draw_rows is not rows or len(rows) != running or not running:
            return None
        if numbers.some_serial or numbers.some_held or len(plan.chunks.slots) != running:
            return None
        return cls(plan, int((numbers.limit[rows] - numbers.known[rows]).min()))

    def repeat(self, numbers: RowNumbers, pool: SlotPool, slot_table: Slots) -> Plan | None:
        """Plan the next step; None where it must be planned anew."""
        old = self.plan
        chunks, rows = old.chunks, old.chunks.rows
        if old.moves != numbers.moves or self.steps < 1 or pool.available_slots <= len(rows):
            return None
        self.steps -= 1
        starts = chunks.starts + 1
        slots = pool.take(len(rows))
        index = index_of(rows)
        slot_table[rows, starts] = slots
        for counted in (numbers.computed, numbers.known, numbers.promised):
            counted[index] += 1
        repeated = Chunks(
            chunks.kinds,
            rows,
            starts,
            chunks.counts,
            slots,
            _NO_DRAFTS,
            chunks.draw_chunks,
            rows,
        )
        self.plan = Plan(
            repeated, old.sequences, old.drawing, old.generations, old.moves, [], [], []
        )
        return self.plan
