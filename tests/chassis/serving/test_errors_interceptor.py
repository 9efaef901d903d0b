"""What is no failure of the service's own making: bugs, cancellation, replies that go well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio

from chassis import errors, logs
from protos import service_pb2

WAIT_S = 20.0

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]]
Context = aio.ServicerContext[Any, Any]

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


def handle(kind: str, behaviour: Any, **serializers: Any) -> Any:
    return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour, **serializers)


async def receive(request: Any) -> None:
    """Take all that the caller sends: where its write fails first, it sees that for the status."""
    if not isinstance(request, bytes):
        async for _ in request:
            pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_tells_the_log_everything_and_the_caller_nothing(
    open_service: OpenService, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(request: Any, context: Context) -> Any:
        await receive(request)
        with logs.about("r-1"):
            raise KeyError("the prompt")

    async with open_service({"Fail": handle(kind, buggy)}) as service:
        answered = await service.failure(kind, "Fail")
    assert answered.code() == StatusCode.INTERNAL
    assert "prompt" not in str(answered.details())
    assert "KeyError" not in repr(answered.trailing_metadata())
    info = errors.error_info(answered)
    assert info is not None
    assert info.reason == "INTERNAL"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "chassis.errors"
    assert "/Test/Fail" in record.getMessage()
    told = logs.TextFormatter("router").format(record)
    assert "[r-1]" in told
    assert "in buggy" in told
    assert "KeyError: 'the prompt'" in told


async def test_a_misuse_of_grpc_is_a_bug(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(request: Any, context: Context) -> Any:
        await context.send_initial_metadata(())
        await context.send_initial_metadata(())

    async with open_service({"Fail": handle("unary_unary", buggy)}) as service:
        answered = await service.failure("unary_unary", "Fail")
    assert answered.code() == StatusCode.INTERNAL
    assert "UsageError" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reply_of_a_wrong_type_is_a_bug(
    open_service: OpenService, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(request: Any, context: Context) -> Any:
        await receive(request)
        if kind.endswith("stream"):
            await context.write("the prompt")
        return "the prompt"

    method = handle(kind, buggy, response_serializer=service_pb2.DescribeResponse.SerializeToString)
    async with open_service({"Fail": method}) as service:
        answered = await service.failure(kind, "Fail")
    assert answered.code() == StatusCode.INTERNAL
    assert "prompt" not in str(answered.details())
    assert "TypeError" in caplog.text


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_request_that_is_no_message_is_the_callers_mistake(
    open_service: OpenService, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(request: service_pb2.DescribeResponse, context: Context) -> Any:
        raise AssertionError

    method = handle(kind, answer, request_deserializer=service_pb2.DescribeResponse.FromString)
    async with open_service({"Fail": method}) as service:
        running = getattr(service.channel, kind)("/Test/Fail")(b"\x0a\x01\xff", timeout=WAIT_S)
        assert await running.code() == StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


async def test_replies_before_the_failure_arrive(open_service: OpenService) -> None:
    async def some(request: Any, context: Context) -> None:
        await context.write(b"a")
        await context.write(b"b")
        raise errors.Unavailable("gone")

    async with open_service({"Fail": handle("unary_stream", some)}) as service:
        running = service.channel.unary_stream("/Test/Fail")(b"", timeout=WAIT_S)
        assert [await running.read(), await running.read()] == [b"a", b"b"]
        assert await running.code() == StatusCode.UNAVAILABLE


async def test_replies_may_come_from_a_generator(open_service: OpenService) -> None:
    closed = asyncio.Event()

    async def some(request: Any, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
            raise errors.NotFound("c")
        finally:
            closed.set()

    async with open_service({"Some": handle("unary_stream", some)}) as service:
        running = service.channel.unary_stream("/Test/Some")(b"", timeout=WAIT_S)
        assert [await running.read(), await running.read()] == [b"a", b"b"]
        assert await running.code() == StatusCode.NOT_FOUND
        assert closed.is_set()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_goes_well_is_answered_as_it_is(open_service: OpenService, kind: str) -> None:
    async def echo(request: Any, context: Context) -> Any:
        if kind.startswith("stream"):
            request, *_ = [each async for each in request]
        if kind.endswith("unary"):
            return request + b"!"
        await context.write(request + b"!")

    async with open_service({"Echo": handle(kind, echo)}) as service:
        assert await service.call(kind, "Echo") == [b"!"]


async def test_a_method_nobody_has_is_unimplemented(open_service: OpenService) -> None:
    async with open_service({}) as service:
        answered = await service.failure("unary_unary", "Absent")
    assert answered.code() == StatusCode.UNIMPLEMENTED


async def test_a_handler_that_aborts_itself_is_left_alone(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    async def abort(request: Any, context: Context) -> Any:
        await context.abort(StatusCode.FAILED_PRECONDITION, "not now")

    async with open_service({"Fail": handle("unary_unary", abort)}) as service:
        answered = await service.failure("unary_unary", "Fail")
    assert (answered.code(), answered.details()) == (StatusCode.FAILED_PRECONDITION, "not now")
    assert caplog.text == ""


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_is_cancelled_in_its_handler(
    open_service: OpenService, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    seen: list[type[BaseException]] = []

    async def wait(request: Any, context: Context) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(type(error))
            raise
        finally:
            ended.set()

    async with open_service({"Wait": handle(kind, wait)}) as service:
        stub = getattr(service.channel, kind)("/Test/Wait")
        running = stub(iter([b""]) if kind.startswith("stream") else b"", timeout=WAIT_S)
        await asyncio.wait_for(started.wait(), WAIT_S)
        running.cancel()
        await asyncio.wait_for(ended.wait(), WAIT_S)
        assert await running.code() == StatusCode.CANCELLED
    assert seen == [asyncio.CancelledError]
    assert caplog.text == ""


async def test_a_deadline_that_passes_cancels_the_handler(open_service: OpenService) -> None:
    cancelled = asyncio.Event()

    async def wait(request: Any, context: Context) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with open_service({"Wait": handle("unary_unary", wait)}) as service:
        with pytest.raises(aio.AioRpcError) as late:
            await service.channel.unary_unary("/Test/Wait")(b"", timeout=0.05)
        await asyncio.wait_for(cancelled.wait(), WAIT_S)
    assert late.value.code() == StatusCode.DEADLINE_EXCEEDED


async def test_a_failure_that_comes_after_the_caller_left_is_no_bug(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def fail(request: Any, context: Context) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise errors.Unavailable("too late") from None
        finally:
            ended.set()

    async with open_service({"Fail": handle("unary_unary", fail)}) as service:
        running = service.channel.unary_unary("/Test/Fail")(b"", timeout=WAIT_S)
        await asyncio.wait_for(started.wait(), WAIT_S)
        running.cancel()
        await asyncio.wait_for(ended.wait(), WAIT_S)
    assert "unhandled" not in caplog.text
