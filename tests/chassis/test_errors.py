"""Every failure reaches the caller as its status, with details a client can act on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status

from chassis import errors

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]]
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
    (errors.TooLarge("x"), StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    (errors.Unavailable("x"), StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (errors.Stopping("x"), StatusCode.UNAVAILABLE, "STOPPING"),
    (errors.AlreadyTaken("x"), StatusCode.ALREADY_EXISTS, "ALREADY_TAKEN"),
    (errors.UnknownMethod("x"), StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD"),
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
    async with open_service({"Fail": handle(kind, raising(error))}) as service:
        answered = await service.failure(kind, "Fail")
    assert answered.code() == code
    assert answered.details() == str(error)
    info = details_of(answered)["ErrorInfo"]
    assert (info.reason, info.domain) == (reason, "triptych")
    assert errors.error_info(answered) == info


async def test_a_wrong_field_is_named(open_service: OpenService) -> None:
    error = errors.InvalidRequest("sampling.top_p", "2.0 is not in (0, 1]")
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as service:
        answered = await service.failure("unary_unary", "Fail")
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
    async with open_service({"Fail": handle("unary_stream", raising(error))}) as service:
        answered = await service.failure("unary_stream", "Fail")
    delay = details_of(answered)["RetryInfo"].retry_delay
    assert delay.ToMilliseconds() == retry_after_s * 1000


async def test_only_who_may_retry_is_told_to(open_service: OpenService) -> None:
    async with open_service(
        {"Fail": handle("unary_unary", raising(errors.NotFound("no such model")))}
    ) as service:
        answered = await service.failure("unary_unary", "Fail")
    assert details_of(answered).keys() == {"ErrorInfo"}


@pytest.mark.parametrize("text", ["x" * 100_000, "模型" * 50_000, "\ud800 lone"])
async def test_a_message_too_long_for_headers_keeps_its_status(
    open_service: OpenService, text: str
) -> None:
    error = errors.InvalidRequest("chat", text)
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as service:
        answered = await service.failure("unary_unary", "Fail")
    assert answered.code() == StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(answered)["BadRequest"].field_violations
    assert violation.field == "chat"
    assert violation.description[:2] in (text[:2], "? ")


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
    async with open_service({"Fail": handle("unary_unary", raising(error))}) as service:
        answered = await service.failure("unary_unary", "Fail")
    assert answered.code() == code
    assert (details_of(answered)["ErrorInfo"].reason == "INTERNAL") == (code is StatusCode.INTERNAL)


async def test_an_error_of_grpcs_own_has_no_error_info(open_service: OpenService) -> None:
    async def wait(request: Any, context: Context) -> Any:
        await asyncio.Event().wait()

    async with open_service({"Wait": handle("unary_unary", wait)}) as service:
        with pytest.raises(aio.AioRpcError) as late:
            await service.channel.unary_unary("/Test/Wait")(b"", timeout=0.05)
    assert errors.error_info(late.value) is None


async def test_an_error_info_that_is_garbage_is_none(open_service: OpenService) -> None:
    async def abort(request: Any, context: Context) -> Any:
        garbage = (("grpc-status-details-bin", b"\xff"),)
        await context.abort(StatusCode.ABORTED, "x", garbage)

    async with open_service({"Fail": handle("unary_unary", abort)}) as service:
        answered = await service.failure("unary_unary", "Fail")
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


class PanicException(BaseException):
    """A panic of a library in Rust, as it reaches Python."""


@pytest.mark.parametrize(
    "raised",
    [KeyError("x"), MemoryError(), Exception("\ud83d"), StopIteration(), PanicException("x")],
)
def test_failures_of_others_code_refuse_the_request(raised: Exception) -> None:
    with (
        pytest.raises(errors.InvalidRequest) as error,
        errors.refuse_failures("chat", "it"),
    ):
        raise raised
    assert error.value.field == "chat"
    assert error.value.description.encode().startswith(b"it failed: ")


@pytest.mark.parametrize(
    "raised", [errors.NotFound("x"), KeyboardInterrupt(), asyncio.CancelledError(), SystemExit()]
)
def test_refusals_and_interrupts_pass_unchanged(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as error, errors.refuse_failures("chat", "it"):
        raise raised
    assert error.value is raised
