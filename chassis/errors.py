"""Failures a service may answer with, and their gRPC status.

    ServiceError
    ├── InvalidRequest      INVALID_ARGUMENT      BadRequest names the field
    ├── NotFound            NOT_FOUND
    ├── Overloaded          RESOURCE_EXHAUSTED    RetryInfo
    ├── DeadlineUnmeetable  RESOURCE_EXHAUSTED    RetryInfo
    ├── TooLarge            RESOURCE_EXHAUSTED    a message, not a lack of room: no RetryInfo
    ├── Unavailable         UNAVAILABLE           RetryInfo
    ├── Stopping            UNAVAILABLE           RetryInfo
    ├── AlreadyTaken        ALREADY_EXISTS
    ├── UnknownMethod       UNIMPLEMENTED
    └── RequestFailed       INTERNAL              a failure with a reason, not a bug
    StartError              not answered: the process says it in one line and ends

Raise a `ServiceError` anywhere below a servicer, in a task group too; `answered` turns it into the
status its class names, with `google.rpc.ErrorInfo`. Anything else is a bug: it is logged
with its traceback and answered `INTERNAL` without detail, so that no prompt text leaks into a
status message.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

log = logging.getLogger(__name__)

DOMAIN = "triptych"
STOPPING = "stopping"
"""Message of the cancellation that ends a call because its service ends."""

# A status travels in headers, several times over and with each byte as up to three; above 8 KiB of
# them a peer answers for us, with another status.
_TEXT_BYTES = 800

_PANIC = "PanicException"  # of a library in Rust; a BaseException that no module offers


class StartError(Exception):
    """The process cannot start; the message names the thing and the remedy in one line."""


class ServiceError(Exception):
    """Base of every failure that a caller may know."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def details(self) -> Sequence[Message]:
        """Details beside ErrorInfo."""
        return ()


class InvalidRequest(ServiceError):
    """The request can never succeed as sent; `field` is its path in the request message."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.description = message

    def details(self) -> Sequence[Message]:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_short(self.field), description=_short(self.description)
        )
        return (error_details_pb2.BadRequest(field_violations=[violation]),)


@contextmanager
def refuse_failures(field: str, step: str) -> Iterator[None]:
    """Refuse the request if its data make the block fail, in any way.

    For what a checkpoint brings: its templates and its tokenizer may raise anything, and a library
    in Rust panics on some input.

    Args:
        field: path of the data in the request message.
        step: what failed, such as "the chat template"; part of the message.

    Raises:
        InvalidRequest: the block raised what is not a ServiceError.
    """
    try:
        yield
    except ServiceError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == _PANIC):
            raise  # an interrupt, a cancellation, an exit
        cause = _short(str(error)) or type(error).__name__
        raise InvalidRequest(field, f"{step} failed: {cause}") from error


class NotFound(ServiceError):
    """The request names a thing that does not exist."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class _Retriable(ServiceError):
    """The same request may succeed later."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(self.retry_after_s * 1000))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class Overloaded(_Retriable):
    """There is no room now."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class DeadlineUnmeetable(Overloaded):
    """The requests before it leave too little of the time that the caller gives."""

    reason = "DEADLINE_UNMEETABLE"


class TooLarge(ServiceError):
    """A message exceeds the limit, and always will."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class Unavailable(_Retriable):
    """A service this one needs is away."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class Stopping(_Retriable):
    """The service is stopping, and the call has outlasted its grace."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "STOPPING"


class AlreadyTaken(ServiceError):
    """A name the caller chose is in use."""

    status = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_TAKEN"


class UnknownMethod(ServiceError):
    """The server has no such method."""

    status = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNKNOWN_METHOD"


class RequestFailed(ServiceError):
    """This request failed for a reason a caller may know."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def rich_status(error: ServiceError) -> status_pb2.Status:
    """The `google.rpc.Status` of `error`: code, message, ErrorInfo and its own details."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    packed = []
    for detail in (info, *error.details()):
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    code: int = error.status.value[0]
    return status_pb2.Status(code=code, message=_short(str(error)), details=packed)


def _short(text: str) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= _TEXT_BYTES:
        return raw.decode()
    return raw[:_TEXT_BYTES].decode(errors="ignore") + "…"


class _Bug(ServiceError):
    reason = "INTERNAL"

    def __init__(self) -> None:
        super().__init__("internal error; the service's log has it under the request id")


async def answered(
    method: str, context: aio.ServicerContext[Any, Any], reply: Coroutine[Any, Any, Any]
) -> Any:
    """Await `reply`; end the call with the status of its error.

    A cancellation that says `STOPPING` ends it with `Stopping`: gRPC does not know of it.
    """
    try:
        return await reply
    except asyncio.CancelledError as error:
        _let_go(error)
        if not is_stopping(error):
            raise
        await _abort(context, Stopping("the service is stopping"))
    except Exception as error:  # noqa: BLE001  (the one place that answers bugs)
        await _answer(error, method, context)


@contextmanager
def failing(outcome: asyncio.Future[Any]) -> Iterator[None]:
    """Make an error of the block, which runs in a callback, the exception of `outcome`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (raised again by the task that awaits `outcome`)
        if not outcome.done():
            outcome.set_exception(error)


def _let_go(raised: BaseException) -> None:
    """Empty the frames that a call's error has passed through.

    They hold its request, and gRPC holds the error until the garbage collector finds it.
    """
    error: BaseException | None = raised
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def is_stopping(error: BaseException) -> bool:
    """True if a call was cancelled because its service ends."""
    return isinstance(error, asyncio.CancelledError) and error.args == (STOPPING,)


async def _answer(raised: Exception, method: str, context: aio.ServicerContext[Any, Any]) -> None:
    """Send the caller its call's status; raise errors of calls that nobody waits for."""
    error = cause_of(raised)
    if isinstance(error, ServiceError):
        _let_go(raised)
        await _abort(context, error)
    elif is_end_of_call(error):
        raise error
    else:
        log.error("unhandled error in %s", method, exc_info=raised)
        await _abort(context, _Bug())


def is_end_of_call(error: BaseException) -> bool:
    """True if gRPC raised it because the call was aborted, or its caller or server is gone."""
    return isinstance(error, aio.BaseError) and not isinstance(error, aio.UsageError)


def cause_of(error: Exception) -> Exception:
    """Cause of a task group's failure if no bug is among its errors; any other error itself."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [cause_of(each) for each in error.exceptions]
    known = [each for each in causes if isinstance(each, ServiceError)]
    ends = [each for each in causes if is_end_of_call(each)]
    return (known + ends)[0] if len(known) + len(ends) == len(causes) else error


async def _abort(context: aio.ServicerContext[Any, Any], error: ServiceError) -> None:
    status = rpc_status.to_status(rich_status(error))
    await context.abort(error.status, status.details, status.trailing_metadata)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo a peer sent with `error`, if it sent one."""
    metadata = getattr(error, "trailing_metadata", lambda: None)() or ()
    packed = dict(tuple(metadata)).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    try:
        details = status_pb2.Status.FromString(packed).details
        return info if any(box.Unpack(info) for box in details) else None
    except DecodeError:
        return None
