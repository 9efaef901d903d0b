"""Gather rows into token frames, and cut frames that are too large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model_svc.engine.request import NO_ALTERNATIVES, Candidate, OutputRow
from protos.token_frame import ROW, Rows, TokenFrame, frame_bytes


class FrameBuilder:
    """Rows of one frame, in the order they are added."""

    def __init__(self) -> None:
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

    def frame(self) -> TokenFrame | None:
        """The frame of all rows added, or None where there are none."""
        if not self._rows:
            return None
        alternatives = NO_ALTERNATIVES
        if self._alternatives:
            alternatives = np.concatenate(self._alternatives)
        return TokenFrame(np.array(self._rows, dtype=ROW), alternatives)


def cut(frame: TokenFrame, most_bytes: int) -> Iterator[TokenFrame]:
    """Cut `frame` into frames of at most `most_bytes`, but for single rows that are larger."""
    if frame_bytes(len(frame.rows), len(frame.alternatives)) <= most_bytes or len(frame.rows) == 1:
        yield frame
        return
    middle = len(frame.rows) // 2
    split = int(frame.rows["alternatives"][:middle].sum())
    yield from cut(TokenFrame(frame.rows[:middle], frame.alternatives[:split]), most_bytes)
    yield from cut(TokenFrame(frame.rows[middle:], frame.alternatives[split:]), most_bytes)
