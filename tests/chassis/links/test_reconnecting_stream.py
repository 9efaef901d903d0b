from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from chassis.links.reconnecting_stream import Ending, ReconnectingStream

GONE = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "gone")


class Call:
    """A call that answers what the test says, and then ends in order."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = asyncio.Queue[Any]()
        for answer in answers:
            self.answers.put_nowait(answer)
        self.written: asyncio.Queue[str] = asyncio.Queue()

    async def read(self) -> Any:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def write(self, message: str) -> None:
        self.written.put_nowait(message)

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    def cancel(self) -> None: ...


class Stream:
    """A stream over some calls, one after another, with what came of it."""

    def __init__(self, *calls: Call) -> None:
        self.received: asyncio.Queue[str] = asyncio.Queue()
        self.endings: asyncio.Queue[Ending] = asyncio.Queue()
        waiting = iter(calls)
        opened: Any = lambda: next(waiting, Call([]))  # noqa: E731
        self.stream: Any = ReconnectingStream(
            opened, lambda: "hello", self.received.put_nowait, self.endings.put_nowait
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with asyncio.timeout(10):
            task = asyncio.create_task(self.stream.run())
            yield
            task.cancel()
            await asyncio.wait([task])


async def test_each_stream_begins_with_the_greeting():
    first, second = Call(["a"]), Call(["b"])
    stream = Stream(first, second)
    async with stream.open():
        assert await first.written.get() == "hello"
        first.answers.put_nowait(GONE)
        assert await second.written.get() == "hello"
        assert [await stream.received.get() for _ in range(2)] == ["a", "b"]


async def test_an_ending_in_order_is_told_from_one_without_a_word():
    stream = Stream(Call(["a", GONE]), Call(["b", aio.EOF]))
    async with stream.open():
        endings = [await stream.endings.get() for _ in range(2)]
    assert [ending.orderly for ending in endings] == [False, True]
    assert [ending.code.name for ending in endings] == ["UNAVAILABLE", "OK"]


async def test_messages_go_out_once_the_peer_has_accepted_and_are_dropped_before():
    call = Call([])
    stream = Stream(call)
    async with stream.open():
        assert await call.written.get() == "hello"
        stream.stream.send("too early")
        call.answers.put_nowait("a")
        await stream.received.get()
        stream.stream.send("in time")
        assert await call.written.get() == "in time"


async def test_a_restart_closes_the_stream_and_opens_another():
    first, second = Call(["a"]), Call(["b"])
    stream = Stream(first, second)
    async with stream.open():
        await stream.received.get()
        stream.stream.restart()
        assert (await stream.endings.get()).closed_here
        assert await stream.received.get() == "b"
