"""A device that does everything as late as it may, with faults that its user could make.

A launch only queues the step's bytes; they are read, computed and written back when a collect has
to wait for them. So whoever reads a result early, writes over an upload that is still to be read,
or moves what queued work refers to, gets wrong tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from support.engine_harness import Arithmetic

from model_svc.scheduling import step_codec
from model_svc.scheduling.step import StepInput, StepOutput

Fault = Literal["none", "early read", "reused buffer", "moved address"]

_STALE = np.arange(900, 980, dtype=np.int32)


class LazyDevice:
    """A runner of any depth over the model of arithmetic."""

    def __init__(self, slots: int, rows: int, context: int, depth: int, fault: Fault) -> None:
        self.depth = depth
        self.most_queued = 0
        self._model = Arithmetic(slots, rows, context)
        self._fault = fault
        self._uploads: list[bytes] = [b""] * (1 if fault == "reused buffer" else depth + 2)
        self._launched = 0
        self._queue: deque[Callable[[], None]] = deque()
        self._readback: dict[int, StepOutput] = {}
        self._table = self._model.table

    def launch(self, step: StepInput) -> int:
        number = self._launched
        self._launched += 1
        block = number % len(self._uploads)
        self._uploads[block] = step_codec.encode(step)
        table = self._table

        def work() -> None:
            self._model.table = table
            step = step_codec.decode_input(self._uploads[block])
            self._readback[number] = self._model.compute(step)

        self._queue.append(work)
        self.most_queued = max(self.most_queued, len(self._queue))
        if self._fault == "moved address" and number % 3 == 2:
            self._table = table.copy()
        return number

    def collect(self, ticket: object) -> StepOutput:
        assert isinstance(ticket, int)
        self._queue.popleft()()
        output = self._readback.pop(ticket)
        if self._fault == "early read":
            return replace(output, tokens=_STALE[: len(output.tokens)])
        # The memory of a result is used again once the next is waited for.
        return output
