"""Gathers the chunks of a step, and counts their tokens as computed and their draws as promised."""

from __future__ import annotations

import numpy as np

from model_svc.scheduling.sequence import Int64s, RowNumbers
from model_svc.scheduling.slot_pool import Slots
from model_svc.scheduling.step import Chunks, Kind

_NO_DRAFTS = np.empty(0, np.int32)


class ChunkBuilder:
    """Chunks of one step: decodes, then verifications, then prefills."""

    def __init__(self, numbers: RowNumbers) -> None:
        """Begin without chunks; `numbers` advance with each that is added."""
        self._numbers = numbers
        self._kinds: list[int] = []
        self._rows: list[int] = []
        self._starts: list[int] = []
        self._counts: list[int] = []
        self._slots: list[Slots] = []
        self._drafts: list[int] = []
        self._draw_rows: list[int] = []
        self._draw_chunks: list[int] = []
        self._decoded: tuple[Int64s, Int64s] = (np.empty(0, np.int64), np.empty(0, np.int64))
        self._decodes_draw: Int64s | None = None
        self._exhausted: list[int] = []
        self.tokens = 0
        """Tokens of all chunks so far."""

    def add_decodes(self, rows: Int64s, starts: Int64s, slots: Slots) -> None:
        """Add a chunk of one token for each of `rows`; call it once, and first."""
        self._decoded = rows, starts
        self._slots.append(slots)
        self._numbers.computed[rows] += 1
        self.tokens = len(rows)

    def draw_decodes(self, rows: Int64s) -> None:
        """Draw for all of `rows`, those of `add_decodes`."""
        numbers = self._numbers
        if np.count_nonzero(numbers.draws[rows]) < len(rows):
            for number, row in enumerate(rows.tolist()):
                self.draw(row, number)
            return
        self._decodes_draw = rows
        numbers.known[rows] += 1
        numbers.promised[rows] += 1
        if numbers.some_serial:
            numbers.held[rows] = numbers.serial[rows]
            numbers.some_held = True

    def add_verification(self, row: int, start: int, draft: tuple[int, ...], slots: Slots) -> None:
        """Add a known token and the proposed ones after it; the row is drawn for."""
        number = self._add(Kind.VERIFY, row, start, slots)
        self._drafts += draft
        self._numbers.drafted[row] = 0
        self._numbers.held[row] = self._numbers.some_held = True
        self.draw(row, number)

    def add_prefill(self, row: int, start: int, slots: Slots) -> int:
        """Add a run of known tokens.

        Returns:
            The number of the chunk.
        """
        return self._add(Kind.PREFILL, row, start, slots)

    def draw(self, row: int, number: int) -> None:
        """Draw for `row` after chunk `number`, if it draws at all."""
        numbers = self._numbers
        if not numbers.draws[row]:
            # Computed once: nothing is left to do until it is removed.
            numbers.limit[row] = 0
            self._exhausted.append(row)
            return
        numbers.known[row] += 1
        numbers.promised[row] += 1
        if numbers.serial[row]:
            numbers.held[row] = numbers.some_held = True
        self._draw_rows.append(row)
        self._draw_chunks.append(number)

    def build(self) -> tuple[Chunks, list[int]]:
        """The chunks, and the rows that are computed to their last token and draw none."""
        rows, starts = self._decoded
        decodes = len(rows)
        if self._decodes_draw is not None and not self._rows:
            return self._decodes(), self._exhausted
        if self._rows:
            rows = np.concatenate([rows, np.array(self._rows, np.int64)])
            starts = np.concatenate([starts, np.array(self._starts, np.int64)])
        kinds = np.zeros(len(rows), np.uint8)
        counts = np.ones(len(rows), np.int64)
        kinds[decodes:] = self._kinds
        counts[decodes:] = self._counts
        draw_rows = np.array(self._draw_rows, np.int64)
        draw_chunks = np.array(self._draw_chunks, np.int64)
        if self._decodes_draw is not None:
            draw_rows = np.concatenate([self._decodes_draw, draw_rows])
            draw_chunks = np.concatenate([np.arange(decodes), draw_chunks])
        slots = np.concatenate(self._slots) if len(self._slots) > 1 else self._slots[0]
        drafts = np.array(self._drafts, np.int32)
        chunks = Chunks(kinds, rows, starts, counts, slots, drafts, draw_chunks, draw_rows)
        return chunks, self._exhausted

    def _decodes(self) -> Chunks:
        """Chunks where all are decodes, and are drawn after."""
        rows, starts = self._decoded
        count = len(rows)
        kinds, counts = np.zeros(count, np.uint8), np.ones(count, np.int64)
        numbers = np.arange(count)
        return Chunks(kinds, rows, starts, counts, self._slots[0], _NO_DRAFTS, numbers, rows)

    def _add(self, kind: Kind, row: int, start: int, slots: Slots) -> int:
        self._kinds.append(kind)
        self._rows.append(row)
        self._starts.append(start)
        self._counts.append(len(slots))
        self._slots.append(slots)
        self._numbers.computed[row] += len(slots)
        self.tokens += len(slots)
        return len(self._decoded[0]) + len(self._rows) - 1
