"""An event loop whose clock stands still until a test moves it, and in which nothing is random.

It does no I/O but for pipes between its processes, in which what is written is there at once.

Several processes share it. A callback belongs to the process in whose context it was scheduled, and
a paused process runs none of its own until it is resumed, as if stopped by a signal between two of
them. A killed process runs on only to free what it holds here; whoever kills it cuts its streams
first, so that nobody hears of that.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import select
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, TypeVar

_MOST_CALLBACKS = 200_000  # of one settling; more is a loop that never ends
_MOST_CANCELS = 20
_LOOPS = itertools.count()

T = TypeVar("T")


class HasFileno(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...


class Process:
    """What runs, pauses and dies together.

    Attributes:
        pauses: how often it was paused.
        held: its callbacks that were due while it was.
        tasks: its own, some of which may have ended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.pauses = 0
        self.held: list[_Handle] = []
        self.tasks: list[_Task] = []
        self.context = Context()
        self.context.run(_PROCESS.set, self)

    def __repr__(self) -> str:
        return f"Process({self.name!r})"


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Handle:
    """A callback to be run."""

    __slots__ = ("_args", "_callback", "_cancelled", "_when", "context")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, when: float
    ) -> None:
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._when = when
        self.context = context

    def cancel(self) -> None:
        self._cancelled = True
        self._args = ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        self.context.run(self._callback, *self._args)


class _Task(asyncio.Task[Any]):
    """A task that its process knows, and whose place in a set does not depend on its address."""

    def __init__(self, number: int, *args: Any, **more: Any) -> None:
        self._number = number
        context = more.get("context")
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is not None:
            process.tasks.append(self)
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The loop; use it inside `running`.

    Attributes:
        failures: what nobody handled, as `call_exception_handler` was told it.
    """

    def __init__(self) -> None:
        self.failures: list[dict[str, Any]] = []
        self._now = 0.0
        self._ready: deque[_Handle] = deque()
        self._readers: dict[int, _Handle] = {}
        self._timers: list[tuple[float, int, _Handle]] = []
        # Tasks of different loops meet in a set of asyncio's; the lower bits decide the order in
        # small sets.
        self._numbers = itertools.count(next(_LOOPS) << 24)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        handle = _Handle(callback, args, context or copy_context(), self._now)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Handle:
        handle = _Handle(callback, args, context or copy_context(), when)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def add_reader(  # type: ignore[override]
        self, pipe: HasFileno, callback: Callable[..., object], *args: Any
    ) -> None:
        self._readers[pipe.fileno()] = _Handle(callback, args, copy_context(), self._now)

    def remove_reader(self, pipe: HasFileno) -> bool:  # type: ignore[override]
        return self._readers.pop(pipe.fileno(), None) is not None

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        return _Task(next(self._numbers), coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    # What tests ask of it.

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop for the block."""
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(None)

    @property
    def busy(self) -> bool:
        """Whether there are callbacks to run without time passing."""
        return bool(self._ready or self._readable())

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, None where there is none."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def settle(self) -> None:
        """Run callbacks until there are none but those of paused processes; the clock stands."""
        ready = self._ready
        for _ in range(_MOST_CALLBACKS):
            if not ready:
                ready.extend(self._readable())
            if not ready:
                return
            handle = ready.popleft()
            if handle.cancelled():
                continue
            process = handle.context.get(_PROCESS)
            if process is not None and process.paused:
                process.held.append(handle)
            else:
                self._run(handle)
        raise AssertionError("callbacks without end")

    def advance(self, seconds: float) -> None:
        """Let so much time pass, running what falls due."""
        end = self._now + seconds
        self.settle()
        while (when := self.next_timer) is not None and when <= end:
            self._now = max(self._now, when)
            self._ready.append(heapq.heappop(self._timers)[2])
            self.settle()
        self._now = end

    def advance_to_next_timer(self) -> bool:
        """Let time pass until something falls due; answer whether there was anything."""
        when = self.next_timer
        if when is not None:
            self.advance(max(0.0, when - self._now))
        return when is not None

    def start(self, process: Process, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task of `process`."""
        return self.create_task(coro, context=process.context.copy())

    def call(self, process: Process, function: Callable[..., T], *args: Any) -> T:
        """Call `function` as code of `process`, at once."""
        return process.context.copy().run(function, *args)

    def pause(self, process: Process) -> None:
        """Run nothing of `process` until it is resumed."""
        process.paused = True
        process.pauses += 1

    def resume(self, process: Process) -> None:
        """Go on where `process` was paused."""
        process.paused = False
        held, process.held = process.held, []
        self._ready.extend(held)

    def tasks(self, process: Process) -> list[_Task]:
        """The tasks of `process` that have not ended."""
        process.tasks = [task for task in process.tasks if not task.done()]
        return process.tasks

    def kill(self, process: Process) -> None:
        """End all of `process`."""
        process.alive = False
        self.resume(process)
        for _ in range(_MOST_CANCELS):
            tasks = self.tasks(process)
            if not tasks:
                return
            for task in list(tasks):
                task.cancel()
            self.settle()
        raise AssertionError(f"{process.name} does not end: {self.tasks(process)}")

    def _readable(self) -> list[_Handle]:
        """The callbacks of pipes that have something to read, but for those of paused processes."""
        waiting = [
            pipe
            for pipe, handle in self._readers.items()
            if not ((process := handle.context.get(_PROCESS)) and process.paused)
        ]
        return [self._readers[pipe] for pipe in select.select(waiting, (), (), 0)[0]]

    def _run(self, handle: _Handle) -> None:
        try:
            handle.run()
        except Exception as error:  # noqa: BLE001  (as every loop does)
            self.call_exception_handler({"message": "a callback failed", "exception": error})
