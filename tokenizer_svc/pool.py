"""The worker processes, and the jobs that wait for them.

Each job is answered once, by one worker at a time: a job whose worker died is given to another
only after the first has ended, so two never write to one slab. A worker pauses a large job between
two pieces of its text, or while its fork encodes one, as long as smaller ones wait.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chassis.errors import RequestFailed
from tokenizer_svc import wire
from tokenizer_svc.job_queue import JobQueue, size_class
from tokenizer_svc.wire import Kind
from tokenizer_svc.worker_process import WorkerDied, WorkerProcess

log = logging.getLogger(__name__)

RECALL_GRACE_S = 0.5
"""A worker that has not let go of a job so long after it was called back is killed, in seconds."""

MOST_BYTES = 450 << 20
"""A worker that is found with more memory after a job is replaced."""

_MOST_DEATHS = 2
_JOBS_A_PAUSE = 16
_GROWTH_BYTES = 256 << 20  # over what a large vocabulary takes


class Cause(enum.StrEnum):
    """Reasons to replace a worker."""

    CRASH = "crash"
    RECALL = "recall"  # it would not let go of a job
    MEMORY = "memory"


@dataclass(eq=False)
class _Job:
    kind: Kind
    payload: bytes
    request_id: str
    deaths: int = 0
    abandoned: bool = False  # nobody waits for more than that no worker has it
    pausing: bool = False  # its worker was asked to pause it
    # None where no worker will answer.
    answer: asyncio.Future[wire.Message | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def __post_init__(self) -> None:
        self.size_class = size_class(len(self.payload))


class Pool:
    """Worker processes on one checkpoint.

    Attributes:
        vocabulary: the checkpoint's `GetVocabularyResponse`, once workers have loaded.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder.absolute()  # workers run elsewhere
        self._workers = workers
        self._queue: JobQueue[_Job] = JobQueue(workers)
        # The last one freed is the warmest, so it is the first one taken. None: the worker died.
        self._idle: dict[WorkerProcess, asyncio.Future[_Job | None]] = {}
        self._running: dict[WorkerProcess, _Job] = {}  # without jobs that are paused
        self._alive = 0
        self._on_replaced: Callable[[Cause], None] = lambda cause: None
        self.vocabulary = b""

    @asynccontextmanager
    async def running(self, on_replaced: Callable[[Cause], None]) -> AsyncIterator[None]:
        """Run the workers during the block, which begins when all have loaded.

        Args:
            on_replaced: called for each worker that replaces another.

        Raises:
            StartError: a worker cannot load the checkpoint, now or when it replaces another.
        """
        self._on_replaced = on_replaced
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
            # Workers that fail together fail for one reason, which the command prints.
            raise failures.exceptions[0] from None

    @property
    def waiting(self) -> int:
        """Jobs that wait for a worker."""
        return len(self._queue)

    async def ask(self, kind: Kind, payload: bytes, request_id: str) -> wire.Message:
        """Have a worker do one thing.

        A cancelled call is called back; it ends when no worker works for it any more.

        Raises:
            RequestFailed: it ended two workers.
        """
        job = _Job(kind, payload, request_id)
        self._queue.put(job, job.size_class)
        self._hand_out()
        try:
            answer = await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            if not self._queue.discard(job):
                job.abandoned = True
                for worker in [worker for worker, has in self._running.items() if has is job]:
                    self._recall(worker, job)
                await asyncio.wait([job.answer])
            raise
        if answer is None:
            raise RequestFailed("TOKENIZER_CRASHED", "tokenizer workers died of this prompt")
        return answer

    def _hand_out(self) -> None:
        """Give idle workers jobs; if small ones are left, pause large ones."""
        if not self._queue:
            return
        while self._idle and (job := self._queue.pop(self._alive)) is not None:
            _, turn = self._idle.popitem()
            turn.set_result(job)
        for worker, job in self._running.items():
            if not job.pausing and self._queue.has_smaller(job.size_class):
                job.pausing = True
                worker.send(Kind.PAUSE)

    def _recall(self, worker: WorkerProcess, job: _Job) -> None:
        """Cancel `job` in `worker`, or end the worker."""
        worker.send(Kind.RECALL)
        asyncio.get_running_loop().call_later(RECALL_GRACE_S, self._kill, worker, job)

    def _kill(self, worker: WorkerProcess, job: _Job) -> None:
        if self._running.get(worker) is job:
            worker.kill()

    async def _keep_worker(self, first_loaded: asyncio.Future[None]) -> None:
        """Run one worker, a new one after each that ends."""
        cause: Cause | None = None
        while True:
            worker = WorkerProcess(self._folder)
            try:
                self.vocabulary = await worker.loaded()
                if cause is None:
                    first_loaded.set_result(None)
                else:
                    self._on_replaced(cause)
                    log.warning(
                        "tokenizer worker replaced",
                        extra={"worker_pid": worker.pid, "cause": cause.value},
                    )
                worker.on_exit(partial(self._lose, worker))
                with self._counted():
                    cause = await self._work(worker)
            finally:
                worker.end()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a worker as alive; large jobs leave one of those to the others."""
        self._alive += 1
        try:
            yield
        finally:
            self._alive -= 1

    def _lose(self, worker: WorkerProcess) -> None:
        turn = self._idle.pop(worker, None)
        if turn is not None:
            turn.set_result(None)

    async def _work(self, worker: WorkerProcess) -> Cause:
        """Let `worker` do jobs until it dies or has grown too much."""
        most_bytes = max(MOST_BYTES, worker.resident_bytes + _GROWTH_BYTES)
        while (job := await self._next_job(worker)) is not None:
            try:
                await self._do(worker, job)
            finally:
                self._queue.finish(job)
                self._hand_out()
            if worker.resident_bytes > most_bytes:
                return Cause.MEMORY
        return Cause.RECALL if worker.killed else Cause.CRASH

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

    async def _do(self, worker: WorkerProcess, job: _Job) -> None:
        """Have `worker` do `job`, and smaller ones while it pauses; it may end meanwhile."""
        try:
            message = await self._go_on(worker, job, job.kind, job.payload)
            while message[0] == Kind.PAUSED:
                await self._do_smaller(worker, job)
                if worker.ended:  # of another job
                    return self._give_back(job)
                message = await self._go_on(worker, job, Kind.RESUME)
            job.answer.set_result(message)
        except WorkerDied:
            worker.end()
            self._after_death(job)
        except asyncio.CancelledError:
            job.answer.cancel()
            raise

    async def _do_smaller(self, worker: WorkerProcess, paused: _Job) -> None:
        """Do jobs that are smaller than a paused one, so many that it is soon its turn again."""
        for _ in range(_JOBS_A_PAUSE):
            job = None if worker.ended else self._queue.take_smaller(paused.size_class)
            if job is None:
                return
            await self._do(worker, job)

    async def _go_on(
        self, worker: WorkerProcess, job: _Job, kind: Kind, payload: bytes = b""
    ) -> wire.Message:
        """Have `worker` begin or resume `job`, and wait until it has done or paused it."""
        worker.send(kind, payload)
        self._running[worker] = job
        if job.abandoned:
            self._recall(worker, job)
        self._hand_out()
        try:
            return await worker.receive()
        finally:
            del self._running[worker]
            job.pausing = False

    def _after_death(self, job: _Job) -> None:
        if not job.abandoned:
            job.deaths += 1
            log.error(
                "tokenizer worker died", extra={"request_id": job.request_id, "deaths": job.deaths}
            )
        self._give_back(job)

    def _give_back(self, job: _Job) -> None:
        """Put a job that its worker lost back into the queue, if it is still wanted."""
        if job.deaths < _MOST_DEATHS and not job.abandoned:
            self._queue.put_back(job, job.size_class)
        else:
            job.answer.set_result(None)
