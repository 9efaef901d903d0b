"""The link says what it is, comes back whatever ended it, and asks for what may have been lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry
from support.tiny_tokenizers import byte_level

from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.model_link import LinkMetrics, LinkState, ModelLink
from detokenizer_svc.registry import Registry
from protos import detokenizer_pb2, memory_pb2, model_pb2

OFFER = model_pb2.FramesResponse(ring=memory_pb2.SharedFile())
LOST = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "gone")
LINKED, UNLINKED = LinkState(linked=True), LinkState()


class Call:
    """A Frames call that answers what the test says."""

    def __init__(self, *answers: Any, refuses_writes: bool = False) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        for answer in answers:
            self.answers.put_nowait(answer)
        self.heard: asyncio.Queue[model_pb2.FramesRequest] = asyncio.Queue()
        self._refuses_writes = refuses_writes

    async def read(self) -> Any:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def write(self, request: model_pb2.FramesRequest) -> None:
        if self._refuses_writes:
            raise asyncio.InvalidStateError("RPC already finished.")
        self.heard.put_nowait(request)

    def cancel(self) -> None:
        self.answers.put_nowait(aio.EOF)


class Channel:
    """Opens the calls it is given, one after another; after the last none succeeds."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = iter(calls)

    def stream_stream(self, path: str, *_: Any, **__: Any) -> Callable[..., Call]:
        return lambda wait_for_ready: next(self._calls, Call())


class Link:
    """A link that is kept up, and the states it told."""

    def __init__(self, *calls: Call) -> None:
        self.counted = CollectorRegistry()
        self.registry = Registry(Vocabulary(byte_level()))
        self.states: asyncio.Queue[LinkState] = asyncio.Queue()
        metrics = LinkMetrics(self.counted, lambda: len(self.registry))
        channel: Any = Channel(calls)
        self.link = ModelLink(channel, "model", self.registry, metrics, self.states.put)

    def register(self, handle: int) -> None:
        class Nobody:
            def touch(self, *_: Any) -> None: ...
            def forget(self, *_: Any) -> None: ...

        register = detokenizer_pb2.Register(handle=handle, attempt=1, candidates=1)
        self.registry.register(register, Nobody())

    def count(self, name: str) -> float | None:
        return self.counted.get_sample_value(f"triptych_detokenizer_{name}_total")


@asynccontextmanager
async def kept(link: Link) -> AsyncIterator[None]:
    async with asyncio.timeout(10):
        task = asyncio.create_task(link.link.run())
        try:
            yield
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_each_state_is_told_when_it_is_so() -> None:
    first, second = Call(), Call(OFFER)
    link = Link(first, second)
    async with kept(link):
        await asyncio.sleep(0)
        assert link.link.state == UNLINKED
        first.answers.put_nowait(OFFER)
        assert await link.states.get() == LINKED
        assert (await first.heard.get()).WhichOneof("message") == "join"
        first.answers.put_nowait(LOST)
        assert [await link.states.get() for _ in range(2)] == [UNLINKED, LINKED]
        assert link.link.describe().ready
    assert await link.states.get() == UNLINKED


@pytest.mark.parametrize(
    "refused",
    [Call(LOST), Call(aio.EOF), Call(OFFER, refuses_writes=True)],
    ids=["at once", "in order", "after its offer"],
)
async def test_a_model_that_ends_it_before_it_is_joined_is_asked_again(refused: Call) -> None:
    link = Link(refused, Call(OFFER))
    async with kept(link):
        assert await link.states.get() == LINKED
    assert link.states.get_nowait() == UNLINKED


async def test_what_may_have_been_lost_is_asked_for_once_it_is_linked_again() -> None:
    first, second = Call(OFFER), Call(OFFER)
    link = Link(first, second)
    async with kept(link):
        assert await link.states.get() == LINKED
        link.register(5)
        first.answers.put_nowait(LOST)
        assert await link.states.get() == UNLINKED
        link.link.ask(link.registry.all_missing())
        assert link.count("replays") == 0
        assert await link.states.get() == LINKED
        await second.heard.get()
        assert (await second.heard.get()).replay.handle == 5
    assert link.count("replays") == 1
