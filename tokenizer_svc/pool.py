"""The worker processes, and the jobs that wait for them.

Each job is answered once, by one worker at a time: a job whose worker died is given to another
only after the first has ended, so two never write to one slab.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chassis.errors import RequestFailed
from tokenizer_svc import wire
from tokenizer_svc.job_queue import JobQueue
from tokenizer_svc.wire import Kind
from tokenizer_svc.worker_process import WorkerDied, WorkerProcess

log = logging.getLogger(__name__)

LONG_BYTES = 8 << 10
"""A job of so many bytes may take so long that short ones should not wait for it."""

_MOST_DEATHS = 2


@dataclass(eq=False)
class _Job:
    kind: Kind
    payload: bytes
    request_id: str
    deaths: int = 0
    abandoned: bool = False  # nobody waits for more than that no worker has it
    # None where no worker will answer.
    answer: asyncio.Future[wire.Message | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def long(self) -> bool:
        return len(self.payload) >= LONG_BYTES


class Pool:
    """Worker processes on one checkpoint."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder.absolute()  # workers run elsewhere
        self._workers = workers
        self._queue: JobQueue[_Job] = JobQueue(workers)
        # The last one freed is the warmest, so it is the first one taken. None: the worker died.
        self._idle: dict[WorkerProcess, asyncio.Future[_Job | None]] = {}
        self._on_restart: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self, on_restart: Callable[[], None]) -> AsyncIterator[None]:
        """Run the workers during the block, which begins when all have loaded.

        Args:
            on_restart: called for each worker that replaces a dead one.

        Raises:
            StartError: a worker cannot load the checkpoint, now or when it replaces a dead one.
        """
        self._on_restart = on_restart
        loop = asyncio.get_running_loop()
        loaded = [loop.create_future() for _ in range(self._workers)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep_worker(first)) for first in loaded]
                # A worker that fails cancels this wait and ends the group.
                await asyncio.wait(loaded)
                yield
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as failures:
            # What fails together fails for one reason, which whoever starts the service tells.
            raise failures.exceptions[0] from None

    @property
    def waiting(self) -> int:
        """Jobs that wait for a worker."""
        return len(self._queue)

    async def ask(self, kind: Kind, payload: bytes, request_id: str) -> wire.Message:
        """Have a worker do one thing.

        A cancelled call ends only when no worker works for it any more.

        Raises:
            RequestFailed: it ended two workers.
        """
        job = _Job(kind, payload, request_id)
        self._queue.put(job, long=job.long)
        self._hand_out()
        try:
            answer = await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            if not self._queue.discard(job):
                job.abandoned = True
                await asyncio.wait([job.answer])
            raise
        if answer is None:
            raise RequestFailed("TOKENIZER_CRASHED", "tokenizer workers died of this prompt")
        return answer

    def _hand_out(self) -> None:
        while self._idle and (job := self._queue.take()) is not None:
            _, turn = self._idle.popitem()
            turn.set_result(job)

    async def _keep_worker(self, first_loaded: asyncio.Future[None]) -> None:
        """Keep one worker running, a new one after each that dies."""
        while True:
            worker = WorkerProcess(self._folder)
            try:
                await worker.loaded()
                if first_loaded.done():
                    self._on_restart()
                    log.warning("tokenizer worker replaced", extra={"worker_pid": worker.pid})
                else:
                    first_loaded.set_result(None)
                worker.on_exit(partial(self._lose, worker))
                await self._work(worker)
            finally:
                worker.end()

    def _lose(self, worker: WorkerProcess) -> None:
        turn = self._idle.pop(worker, None)
        if turn is not None:
            turn.set_result(None)

    async def _work(self, worker: WorkerProcess) -> None:
        """Let `worker` do jobs until it dies."""
        while (job := await self._next_job(worker)) is not None:
            try:
                job.answer.set_result(await worker.ask(job.kind, job.payload))
            except WorkerDied:
                worker.end()
                self._after_death(job)
            except asyncio.CancelledError:
                job.answer.cancel()
                raise
            finally:
                self._queue.finish(job)
                self._hand_out()

    async def _next_job(self, worker: WorkerProcess) -> _Job | None:
        """Wait for a job, or for None where the worker has died."""
        if worker.ended:
            return None
        turn: asyncio.Future[_Job | None] = asyncio.get_running_loop().create_future()
        self._idle[worker] = turn
        self._hand_out()
        try:
            return await turn
        finally:
            self._idle.pop(worker, None)

    def _after_death(self, job: _Job) -> None:
        job.deaths += 1
        log.error(
            "tokenizer worker died", extra={"request_id": job.request_id, "deaths": job.deaths}
        )
        if job.deaths < _MOST_DEATHS and not job.abandoned:
            self._queue.put_back(job, long=job.long)
        else:
            job.answer.set_result(None)
