"""Gather rows into token frames, and cut frames that are too large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model_svc.engine.request import NO_ALTERNATIVES, Candidate, OutputRow
from protos.token_frame import ROW, Rows, TokenFrame, frame_bytes


class FrameBuilder:
    """Rows of one frame, in the order they are added."""

    def __init__(self) -> None:
        self._blocks: list[Rows] = []
        self._rows: list[tuple[int, int, int, int, float, int, int, int]] = []
        self._alternatives: list[Rows] = []

    def add(self, candidate: Candidate, row: OutputRow) -> None:
        """Add a row of `candidate`."""
        spec = candidate.request.spec
        self._rows.append(
            (
                spec.handle,
                spec.attempt,
                row.position,
                row.token,
                row.logprob,
                candidate.index,
                row.flags,
                len(row.alternatives),
            )
        )
        if len(row.alternatives):
            self._alternatives.append(row.alternatives)

    def add_block(self, rows: Rows, alternatives: Sequence[Rows]) -> None:
        """Add `rows`, records of `ROW`, and the alternatives that they count."""
        self._close_rows()
        self._blocks.append(rows)
        self._alternatives += [own for own in alternatives if len(own)]

    def frame(self) -> TokenFrame | None:
        """The frame of all rows added, or None where there are none."""
        self._close_rows()
        if not self._blocks:
            return None
        alternatives = NO_ALTERNATIVES
        if self._alternatives:
            alternatives = np.concatenate(self._alternatives)
        rows = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        return TokenFrame(rows, alternatives)

    def _close_rows(self) -> None:
        if self._rows:
            self._blocks.append(np.array(self._rows, dtype=ROW))
            self._rows = []


def cut(frame: TokenFrame, most_bytes: int) -> Iterator[TokenFrame]:
    """Cut `frame` into frames of at most `most_bytes`, but for single rows that are larger."""
    if frame_bytes(len(frame.rows), len(frame.alternatives)) <= most_bytes or len(frame.rows) == 1:
        yield frame
        return
    middle = len(frame.rows) // 2
    split = int(frame.rows["alternatives"][:middle].sum())
    yield from cut(TokenFrame(frame.rows[:middle], frame.alternatives[:split]), most_bytes)
    yield from cut(TokenFrame(frame.rows[middle:], frame.alternatives[split:]), most_bytes)
