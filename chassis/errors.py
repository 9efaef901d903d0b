"""Failures a service may answer with, and their gRPC status.

    ServiceError
    ├── InvalidRequest      INVALID_ARGUMENT      BadRequest names the field
    ├── NotFound            NOT_FOUND
    ├── Overloaded          RESOURCE_EXHAUSTED    RetryInfo
    ├── Unavailable         UNAVAILABLE           RetryInfo
    ├── DeadlinePassed      DEADLINE_EXCEEDED
    ├── AlreadyTaken        ALREADY_EXISTS
    └── RequestFailed       INTERNAL              a failure with a reason, not a bug
    StartError              not answered: the process says it in one line and ends

Raise a `ServiceError` anywhere below a servicer; `ErrorInterceptor` turns it into the status its
class names, with `google.rpc.ErrorInfo`. Anything else is a bug: it is logged with its traceback
and answered `INTERNAL` without detail, so that no prompt text leaks into a status message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

log = logging.getLogger(__name__)

DOMAIN = "triptych"


class StartError(Exception):
    """The process cannot start; the message names the thing and the remedy in one line."""


class ServiceError(Exception):
    """Base of every failure a caller is told about."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def details(self) -> Sequence[Message]:
        """What goes beside ErrorInfo."""
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
            field=self.field, description=self.description
        )
        return (error_details_pb2.BadRequest(field_violations=[violation]),)


class NotFound(ServiceError):
    """What the request names does not exist."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class _Retriable(ServiceError):
    """May succeed later, unchanged."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def details(self) -> Sequence[Message]:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(self.retry_after_s * 1000))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class Overloaded(_Retriable):
    """No room now."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class Unavailable(_Retriable):
    """A service this one needs is away."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlinePassed(ServiceError):
    """The caller's deadline passed."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class AlreadyTaken(ServiceError):
    """A name the caller chose is in use."""

    status = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_TAKEN"


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
    return status_pb2.Status(code=code, message=str(error), details=packed)


class _Bug(ServiceError):
    reason = "INTERNAL"

    def __init__(self) -> None:
        super().__init__("internal error; the service's log has it under the request id")


class ErrorInterceptor(aio.ServerInterceptor):
    """Answer each raised exception with its status, for unary and streaming replies."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = _guard(handler_call_details.method, getattr(handler, kind))
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _guard(method: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
    """Wrap a coroutine handler; streaming replies are written with `context.write`."""

    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except (aio.AbortError, aio.BaseError):
            raise
        except ServiceError as error:
            await _abort(context, error)
        except Exception:
            log.exception("unhandled error in %s", method)
            await _abort(context, _Bug())

    return call


async def _abort(context: aio.ServicerContext[Any, Any], error: ServiceError) -> None:
    status = rpc_status.to_status(rich_status(error))
    await context.abort(error.status, status.details, status.trailing_metadata)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo a peer sent with `error`, if it sent one."""
    metadata = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in metadata:
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for box in status.details:
                info = error_details_pb2.ErrorInfo()
                if box.Unpack(info):
                    return info
    return None
