"""Both directions at once, and an end that reaches both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio

from chassis.errors import NotFound, error_info
from chassis.links.streams import converse, ended_by, first

WAIT_S = 20.0

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]]
Context = aio.ServicerContext[Any, Any]


class Party:
    """The server's side: what it was told, what it is to say, how the call ended for it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.to_say: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.listening = asyncio.Event()
        self.speaking = asyncio.Event()
        self.ended: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )

    def take(self, request: bytes) -> None:
        self.heard.append(request)
        if request == b"bad":
            raise NotFound("bad")
        self.to_say.put_nowait(request.upper())

    async def next_response(self) -> bytes:
        self.listening.set()
        response = await self.to_say.get()
        if isinstance(response, Exception):
            raise response
        self.speaking.set()
        return response

    async def serve(self, request: Any, context: Context) -> None:
        try:
            await converse(context, self.take, self.next_response)
        except BaseException as error:
            self.ended.set_result(error)
            raise
        self.ended.set_result(None)


@asynccontextmanager
async def talking(
    open_service: OpenService,
    serve: Callable[[Any, Context], Awaitable[None]],
) -> AsyncIterator[Any]:
    """A client's call of `serve`."""
    method = grpc.stream_stream_rpc_method_handler(serve)
    async with open_service({"Talk": method}) as service:
        yield service.channel.stream_stream("/Test/Talk")(timeout=WAIT_S)


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, WAIT_S)


async def test_both_speak_when_they_like(open_service: OpenService) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        party.to_say.put_nowait(b"unasked")
        assert await call.read() == b"unasked"
        for word in (b"a", b"b", b"c"):
            await call.write(word)
        assert [await call.read() for _ in range(3)] == [b"A", b"B", b"C"]
        party.to_say.put_nowait(b"again unasked")
        assert await call.read() == b"again unasked"
        assert party.heard == [b"a", b"b", b"c"]
        await call.done_writing()
        assert await call.code() == StatusCode.OK
        assert await soon(party.ended) is None


async def test_a_caller_who_ends_without_a_word_is_answered(open_service: OpenService) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        await call.done_writing()
        assert await call.read() is aio.EOF
        assert await call.code() == StatusCode.OK
    assert party.heard == []


async def test_a_caller_who_cancels_ends_both_directions(open_service: OpenService) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        await soon(party.listening.wait())
        call.cancel()
        assert await call.code() == StatusCode.CANCELLED
        ended = await soon(party.ended)
    assert ended is None or isinstance(ended, asyncio.CancelledError)
    assert party.to_say.qsize() == 0
    assert not any("send" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_the_handlers_cancellation_is_passed_on(open_service: OpenService) -> None:
    party = Party()
    handlers: list[asyncio.Task[Any] | None] = []

    async def serve(request: Any, context: Context) -> None:
        handlers.append(asyncio.current_task())
        await party.serve(request, context)

    async with talking(open_service, serve) as call:
        await soon(party.listening.wait())
        assert handlers[0] is not None
        handlers[0].cancel()
        assert isinstance(await soon(party.ended), asyncio.CancelledError)
        call.cancel()


async def test_a_bug_in_what_is_to_be_sent_ends_the_call_at_once(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        party.to_say.put_nowait(KeyError("slot"))
        # The caller goes on listening and neither ends nor writes.
        assert await call.code() == StatusCode.INTERNAL
        assert isinstance(await soon(party.ended), KeyError)
    assert "KeyError: 'slot'" in caplog.text


async def test_a_failure_in_what_is_to_be_sent_is_answered(open_service: OpenService) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        party.to_say.put_nowait(b"a")
        party.to_say.put_nowait(NotFound("b"))
        assert await call.read() == b"a"
        assert await call.code() == StatusCode.NOT_FOUND
        assert isinstance(await soon(party.ended), NotFound)


async def test_a_request_that_is_refused_ends_the_call(open_service: OpenService) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        await call.write(b"bad")
        assert await call.code() == StatusCode.NOT_FOUND
        assert isinstance(await soon(party.ended), NotFound)


async def test_a_caller_who_vanishes_while_much_is_sent_is_no_bug(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        for _ in range(50):
            party.to_say.put_nowait(bytes(1 << 20))
        assert len(await call.read()) == 1 << 20
        call.cancel()
        ended = await soon(party.ended)
    assert ended is None or isinstance(ended, asyncio.CancelledError)
    assert caplog.text == ""


async def test_a_caller_may_end_while_the_first_response_is_under_way(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    party = Party()
    async with talking(open_service, party.serve) as call:
        # More than is sent without being read.
        party.to_say.put_nowait(bytes(16 << 20))
        await soon(party.speaking.wait())
        await call.done_writing()
        assert await soon(party.ended) is None
        replies = [len(reply) async for reply in call]
        assert replies in ([], [16 << 20])
        assert await call.code() == StatusCode.OK
    assert caplog.text == ""


async def test_the_first_request_can_be_read_apart(open_service: OpenService) -> None:
    seen: list[Any] = []

    async def serve(request: Any, context: Context) -> None:
        seen.append(await first(context))
        await context.write(b"welcome")
        party = Party()
        await converse(context, party.take, party.next_response)
        seen.extend(party.heard)

    async with talking(open_service, serve) as call:
        await call.write(b"hello")
        assert await call.read() == b"welcome"
        await call.write(b"a")
        assert await call.read() == b"A"
        await call.done_writing()
        assert await call.code() == StatusCode.OK
    assert seen == [b"hello", b"a"]


@pytest.mark.parametrize("told", ["before", "while it waits", "while it converses"])
async def test_a_service_told_to_stop_ends_the_call_and_says_so(
    open_service: OpenService, caplog: pytest.LogCaptureFixture, told: str
) -> None:
    party, stopping, reading = Party(), asyncio.Event(), asyncio.Event()

    async def serve(request: Any, context: Context) -> None:
        async with ended_by(stopping, "model"):
            reading.set()
            await first(context)
            await party.serve(request, context)

    if told == "before":
        stopping.set()
    async with talking(open_service, serve) as call:
        await soon(reading.wait())
        if told == "while it converses":
            await call.write(b"hello")
            await soon(party.listening.wait())
        stopping.set()
        with pytest.raises(aio.AioRpcError) as error:
            await call.read()
    info = error_info(error.value)
    assert (error.value.code(), error.value.details()) == (
        StatusCode.UNAVAILABLE,
        "the model is stopping",
    )
    assert info is not None
    assert info.reason == "UNAVAILABLE"
    assert caplog.text == ""


async def test_a_call_that_ends_by_itself_does_not_wait_for_the_stop(
    open_service: OpenService,
) -> None:
    party = Party()

    async def serve(request: Any, context: Context) -> None:
        async with ended_by(asyncio.Event(), "model"):
            await party.serve(request, context)

    async with talking(open_service, serve) as call:
        await call.write(b"bad")
        assert await call.code() == StatusCode.NOT_FOUND
        assert isinstance(await soon(party.ended), NotFound)
    async with talking(open_service, serve) as call:
        party.ended = asyncio.get_running_loop().create_future()
        await call.done_writing()
        assert await call.code() == StatusCode.OK


async def test_a_stream_without_a_request_has_no_first(open_service: OpenService) -> None:
    seen: list[Any] = []

    async def serve(request: Any, context: Context) -> None:
        seen.append(await first(context))

    async with talking(open_service, serve) as call:
        await call.done_writing()
        assert await call.code() == StatusCode.OK
    assert seen == [None]
