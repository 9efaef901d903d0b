"""Every failure reaches the caller as its status, with details a client can act on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status

from chassis import errors, logs
from protos import service_pb2

WAIT_S = 20.0

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[aio.Channel]]
Context = aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


def handle(kind: str, behaviour: Any, **serializers: Any) -> Any:
    return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour, **serializers)


async def receive(request: Any) -> None:
    """Take all that the caller sends: where its write fails first, it sees that for the status."""
    if not isinstance(request, bytes):
        async for _ in request:
            pass


def raising(error: BaseException) -> Behaviour:
    async def behaviour(request: Any, context: Context) -> Any:
        await receive(request)
        raise error

    return behaviour


async def call(channel: aio.Channel, kind: str, method: str) -> list[bytes]:
    """All replies of one call whose request, or one request, is empty."""
    stub = getattr(channel, kind)(f"/Test/{method}")
    running = stub(iter([b""]) if kind.startswith("stream") else b"", timeout=WAIT_S)
    if kind.endswith("unary"):
        return [await running]
    return [reply async for reply in running]


async def failure(channel: aio.Channel, kind: str, method: str) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as failed:
        await call(channel, kind, method)
    return failed.value


def details_of(error: aio.AioRpcError) -> dict[str, Any]:
    """The `google.rpc` details by the name of their type."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for box in status.details:
        name = box.TypeName().removeprefix("google.rpc.")
        found[name] = getattr(error_details_pb2, name)()
        assert box.Unpack(found[name])
    return found


FAILURES = [
    (errors.InvalidRequest("stop.strings", "x"), StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (errors.NotFound("x"), StatusCode.NOT_FOUND, "NOT_FOUND"),
    (errors.Overloaded("x"), StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (errors.Unavailable("x"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (errors.DeadlinePassed("x"), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (errors.AlreadyTaken("x"), StatusCode.ALREADY_EXISTS, "ALREADY_TAKEN"),
    (errors.RequestFailed("IMPLICATED_IN_CRASHES", "x"), StatusCode.INTERNAL,
     "IMPLICATED_IN_CRASHES"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("error", "code", "reason"), FAILURES, ids=[type(error).__name__ for error, *_ in FAILURES]
)
async def test_a_failure_is_answered_with_its_status_and_reason(
    open_service: OpenService,
    kind: str,
    error: errors.ServiceError,
    code: StatusCode,
    reason: str,
) -> None:
    async with open_service({"Fail": handle(kind, raising(error))}) as channel:
        answered = await failure(channel, kind, "Fail")
    assert answered.code() == code
    assert answered.details() == str(error)
    info = details_of(answered)["ErrorInfo"]
    assert (info.reason, info.domain) == (reason, "triptych")
    assert errors.error_info(answered) == info


async def test_a_wrong_field_is_named(open_service: OpenService) -> None:
    error = errors.InvalidRequest("sampling.top_p", "2.0 is not in (0, 1]")
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
    (violation,) = details_of(answered)["BadRequest"].field_violations
    assert violation.field == "sampling.top_p"
    assert violation.description == "2.0 is not in (0, 1]"
    assert answered.details() == "sampling.top_p: 2.0 is not in (0, 1]"


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Unavailable])
@pytest.mark.parametrize("retry_after_s", [0.25, 1.0, 90.0])
async def test_who_may_retry_is_told_when(
    open_service: OpenService, kind: type[errors.Overloaded], retry_after_s: float
) -> None:
    error = kind("later", retry_after_s=retry_after_s)
    async with open_service({"Fail": handle("unary_stream", raising(error))}) as channel:
        answered = await failure(channel, "unary_stream", "Fail")
    delay = details_of(answered)["RetryInfo"].retry_delay
    assert delay.ToMilliseconds() == retry_after_s * 1000


async def test_only_who_may_retry_is_told_to(open_service: OpenService) -> None:
    async with open_service(
        {"Fail": handle("unary_unary", raising(errors.NotFound("no such model")))}
    ) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
    assert details_of(answered).keys() == {"ErrorInfo"}


@pytest.mark.parametrize("text", ["x" * 100_000, "模型" * 50_000, "\ud800 lone"])
async def test_a_message_too_long_for_headers_keeps_its_status(
    open_service: OpenService, text: str
) -> None:
    error = errors.InvalidRequest("chat", text)
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
    assert answered.code() == StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(answered)["BadRequest"].field_violations
    assert violation.field == "chat"
    assert violation.description[:2] in (text[:2], "? ")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_tells_the_log_everything_and_the_caller_nothing(
    open_service: OpenService, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(request: Any, context: Context) -> Any:
        await receive(request)
        with logs.about("r-1"):
            raise KeyError("the prompt")

    async with open_service({"Fail": handle(kind, buggy)}) as channel:
        answered = await failure(channel, kind, "Fail")
    assert answered.code() == StatusCode.INTERNAL
    assert "prompt" not in str(answered.details())
    assert "KeyError" not in repr(answered.trailing_metadata())
    assert details_of(answered)["ErrorInfo"].reason == "INTERNAL"
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

    async with open_service({"Fail": handle("unary_unary", buggy)}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
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
    async with open_service({"Fail": method}) as channel:
        answered = await failure(channel, kind, "Fail")
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
    async with open_service({"Fail": method}) as channel:
        running = getattr(channel, kind)("/Test/Fail")(b"\x0a\x01\xff", timeout=WAIT_S)
        assert await running.code() == StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ([errors.NotFound("x")], StatusCode.NOT_FOUND),
        ([ExceptionGroup("g", [errors.Overloaded("x")])], StatusCode.RESOURCE_EXHAUSTED),
        ([errors.NotFound("x"), KeyError("y")], StatusCode.INTERNAL),
    ],
)
async def test_what_a_task_group_failed_of_is_answered(
    open_service: OpenService, raised: list[Exception], code: StatusCode
) -> None:
    error = ExceptionGroup("unhandled errors in a TaskGroup", raised)
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
    assert answered.code() == code
    assert (details_of(answered)["ErrorInfo"].reason == "INTERNAL") == (code is StatusCode.INTERNAL)


async def test_replies_before_the_failure_arrive(open_service: OpenService) -> None:
    async def some(request: Any, context: Context) -> None:
        await context.write(b"a")
        await context.write(b"b")
        raise errors.Unavailable("gone")

    async with open_service({"Fail": handle("unary_stream", some)}) as channel:
        running = channel.unary_stream("/Test/Fail")(b"", timeout=WAIT_S)
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

    async with open_service({"Some": handle("unary_stream", some)}) as channel:
        running = channel.unary_stream("/Test/Some")(b"", timeout=WAIT_S)
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

    async with open_service({"Echo": handle(kind, echo)}) as channel:
        assert await call(channel, kind, "Echo") == [b"!"]


async def test_a_method_nobody_has_is_unimplemented(open_service: OpenService) -> None:
    async with open_service({}) as channel:
        answered = await failure(channel, "unary_unary", "Absent")
    assert answered.code() == StatusCode.UNIMPLEMENTED


async def test_a_handler_that_aborts_itself_is_left_alone(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    async def abort(request: Any, context: Context) -> Any:
        await context.abort(StatusCode.FAILED_PRECONDITION, "not now")

    async with open_service({"Fail": handle("unary_unary", abort)}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
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

    async with open_service({"Wait": handle(kind, wait)}) as channel:
        stub = getattr(channel, kind)("/Test/Wait")
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

    async with open_service({"Wait": handle("unary_unary", wait)}) as channel:
        with pytest.raises(aio.AioRpcError) as late:
            await channel.unary_unary("/Test/Wait")(b"", timeout=0.05)
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

    async with open_service({"Fail": handle("unary_unary", fail)}) as channel:
        running = channel.unary_unary("/Test/Fail")(b"", timeout=WAIT_S)
        await asyncio.wait_for(started.wait(), WAIT_S)
        running.cancel()
        await asyncio.wait_for(ended.wait(), WAIT_S)
    assert "unhandled" not in caplog.text


async def test_an_error_of_grpcs_own_has_no_error_info(open_service: OpenService) -> None:
    async with open_service({}) as channel:
        answered = await failure(channel, "unary_unary", "Absent")
    assert errors.error_info(answered) is None


async def test_an_error_info_that_is_garbage_is_none(open_service: OpenService) -> None:
    async def abort(request: Any, context: Context) -> Any:
        garbage = (("grpc-status-details-bin", b"\xff"),)
        await context.abort(StatusCode.ABORTED, "x", garbage)

    async with open_service({"Fail": handle("unary_unary", abort)}) as channel:
        answered = await failure(channel, "unary_unary", "Fail")
    assert errors.error_info(answered) is None


def test_the_tree_at_the_top_of_the_file_is_true() -> None:
    tree = {
        line.split()[1]: line.split()[2]
        for line in str(errors.__doc__).splitlines()
        if line.strip().startswith(("├", "└"))
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    told = {
        kind.__name__: kind.status.name
        for kind in kinds
        if issubclass(kind, errors.ServiceError)
        and not kind.__name__.startswith("_")
        and kind is not errors.ServiceError
    }
    assert told == tree
