"""Client of a worker process that measures.

Invariant: a worker that raised, died or hung gets no further request; the next goes to a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

_START_S = 120.0  # importing torch from a cold disk
T = TypeVar("T")


class Lost(Exception):
    """A worker gave no answer; the message names the cause."""


class WorkerClient:
    """A worker process, started at the first request.

    Attributes:
        device: the worker's description of its GPU, once one has started.
    """

    def __init__(
        self,
        describe: Callable[[], Mapping[str, str]],
        answer: Callable[[Mapping[str, Any]], dict[str, Any]],
        longest_s: float = 180.0,
    ) -> None:
        """Prepare.

        Args:
            describe: run in each new worker; importable, as `answer` is.
            answer: run there for each request.
            longest_s: seconds after which a worker counts as hung.
        """
        self._describe = describe
        self._answer = answer
        self._longest_s = longest_s
        self._pool: ProcessPoolExecutor | None = None
        self._processes: list[BaseProcess] = []
        self.device: Mapping[str, str] = {}

    def ask(self, request: Mapping[str, Any], most_s: float | None = None) -> dict[str, Any]:
        """Have one thing measured.

        Args:
            request: as `answer` takes it.
            most_s: longest wait in seconds, if shorter than `longest_s`.

        Raises:
            Lost: the worker raised, died, or took too long and was stopped.
        """
        pool = self._pool or self._start()
        wait_s = self._longest_s if most_s is None else min(most_s, self._longest_s)
        return self._result(pool.submit(self._answer, request), max(wait_s, 1.0))

    def close(self) -> None:
        """Kill the worker, if there is one, with the compilers that it has started."""
        pool, self._pool = self._pool, None
        for process in self._processes:
            assert process.pid is not None  # it was started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        if pool is not None:
            pool.shutdown()

    def _start(self) -> ProcessPoolExecutor:
        others = active_children()
        # A session of its own: compilers left over would disturb the next measurement.
        self._pool = pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=os.setsid)
        described = pool.submit(self._describe)
        self._processes = [child for child in active_children() if child not in others]
        self.device = self._result(described, _START_S)
        return pool

    def _result(self, asked: Future[T], wait_s: float) -> T:
        try:
            error = asked.exception(wait_s)
        except TimeoutError:
            self.close()
            raise Lost(f"no answer within {wait_s:.0f} s") from None
        if error is not None:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}"[:300]) from error
        return asked.result()
