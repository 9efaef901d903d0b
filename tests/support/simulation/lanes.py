"""What travels between two simulated processes: messages of one direction of one stream.

They arrive in order or not at all: at once where the direction's gate is open, else when a test
lets them. A lane that was severed takes nothing more; its reader finds the end behind what is still
under way, so the two ends of a stream do not find out together.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

import grpc
from grpc import aio
from support.simulation.loop import SimulatedLoop

WINDOW = 3  # messages that a writer may be ahead of its reader


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended, as one of its ends is told it."""

    code: grpc.StatusCode
    details: str = ""
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def error(self) -> aio.AioRpcError:
        metadata = aio.Metadata(*self.metadata)
        return aio.AioRpcError(self.code, aio.Metadata(), metadata, self.details)


FINISHED = End(grpc.StatusCode.OK)
LOST = End(grpc.StatusCode.UNAVAILABLE, "Socket closed")
CANCELLED = End(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let others run: whoever reads or writes a stream does."""
    yield


class Gate:
    """One direction of a link: open, or shut by the test."""

    def __init__(self) -> None:
        self.shut = False
        self.stalled = False
        self.lanes: list[Lane] = []

    @property
    def open(self) -> bool:
        return not (self.shut or self.stalled)

    def let(self, count: int) -> int:
        """Let so many arrive, oldest stream first; return how many there were."""
        let = 0
        for lane in [lane for lane in self.lanes if not lane.late]:
            while lane.under_way and let < count:
                lane.arrive()
                let += 1
        return let

    def flush(self) -> None:
        """Let arrive what is under way, if open, but for what is late."""
        for lane in [lane for lane in self.lanes if self.open and not lane.late]:
            while lane.under_way:
                lane.arrive()

    def let_late(self) -> None:
        """Let arrive what is late."""
        for lane in [lane for lane in self.lanes if lane.late]:
            lane.late = False
        self.flush()


class Lane:
    """One direction of one stream.

    Attributes:
        under_way: sent and not arrived.
        arrived: arrived and not read.
        end: what its reader finds when it has read all, once that has arrived.
        late: what is under way arrives only when the gate lets what is late, or never.
    """

    def __init__(self, gate: Gate, loop: SimulatedLoop, ended: Callable[[], None]) -> None:
        """Tell `ended` when the end has arrived."""
        self.under_way: deque[bytes | End] = deque()
        self.arrived: deque[bytes] = deque()
        self.end: End | None = None
        self.late = False
        self._severed = False
        self._gate = gate
        self._loop = loop
        self._ended = ended
        self._waiting: list[asyncio.Future[None]] = []
        gate.lanes.append(self)

    def send(self, item: bytes) -> None:
        """Send `item` after those before it; into the void where the stream was cut."""
        if not self._severed:
            self._put(item)

    def sever(self, end: End, *, losing: bool = False) -> None:
        """Take no more; the reader finds `end` behind what is under way, or instead of it."""
        if losing:
            self.under_way = deque(item for item in self.under_way if isinstance(item, End))
        if not self._severed:
            self._severed = True
            self._put(end)

    def lose(self, end: End) -> None:
        """Let the reader find `end` now, and nothing of what is under way."""
        self._severed = True
        self.under_way.clear()
        self._finish(end)

    def arrive(self) -> None:
        """Let the next item arrive."""
        item = self.under_way.popleft()
        if isinstance(item, End):
            self._finish(item)
        else:
            self.arrived.append(item)
        self.wake()

    async def take(self) -> bytes | End:
        """The next item, once there is one."""
        await _turn()
        while not self.arrived and self.end is None:
            await self._change()
        if self.arrived:
            item = self.arrived.popleft()
            self.wake()
            return item
        assert self.end is not None
        return self.end

    async def room(self) -> None:
        """Wait until the reader is close enough behind, or nobody cares any more."""
        await _turn()
        while len(self.under_way) + len(self.arrived) >= WINDOW and not self._severed:
            await self._change()

    def wake(self) -> None:
        """Have whoever waits look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _put(self, item: bytes | End) -> None:
        self.under_way.append(item)
        if self._gate.open:
            self._gate.flush()
        self.wake()

    def _finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self._gate.lanes.remove(self)
            self.wake()
            self._ended()

    async def _change(self) -> None:
        future = self._loop.create_future()
        self._waiting.append(future)
        await future
