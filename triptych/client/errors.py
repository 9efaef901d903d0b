"""Failures of a call, typed, with the server's details.

    TriptychError
    ├── InvalidRequest      INVALID_ARGUMENT      `violations` name the fields
    ├── NotFound            NOT_FOUND
    ├── Overloaded          RESOURCE_EXHAUSTED    `retry_after_s`
    ├── Unavailable         UNAVAILABLE           `reason` is empty where nothing answered at all
    ├── DeadlineExceeded    DEADLINE_EXCEEDED
    ├── Cancelled           CANCELLED
    └── InternalError       INTERNAL, UNKNOWN

Every gRPC status becomes one of these; a status without a class of its own is a `TriptychError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that was refused, and why."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class _Details:
    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None


class TriptychError(Exception):
    """A call failed.

    Attributes:
        address: the server's.
        status: the gRPC status.
        message: the server's words, or gRPC's own; the client's where it gave up by itself.
        reason: `ErrorInfo.reason`; empty where the status is not from a Triptych server.
        violations: fields of the request that were refused.
        retry_after_s: seconds after which the same request may succeed, where the server said.
        tries: how often the request was sent; this is what the last try ended with.
        begun: part of the answer had come before.
    """

    def __init__(
        self,
        message: str,
        *,
        address: str = "",
        status: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        details: _Details | None = None,
        tries: int = 1,
        begun: bool = False,
    ) -> None:
        super().__init__(message)
        details = details or _Details()
        self.message = message
        self.address = address
        self.status = status
        self.reason = details.reason
        self.violations = details.violations
        self.retry_after_s = details.retry_after_s
        self.tries = tries
        self.begun = begun


class InvalidRequest(TriptychError):
    """The request can never succeed as sent."""


class NotFound(TriptychError):
    """The request names something that does not exist."""


class Overloaded(TriptychError):
    """The server has no room now, or the message is larger than it takes."""


class Unavailable(TriptychError):
    """No server answers, or a service that it needs is away."""


class DeadlineExceeded(TriptychError):
    """The timeout passed."""


class Cancelled(TriptychError):
    """The call was cancelled."""


class InternalError(TriptychError):
    """The server failed."""


_CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
}


def decoded(message: T | None) -> T:
    """`message`; gRPC's asyncio gives None for one that it could not decode.

    Raises:
        DecodeError: it is None.
    """
    if message is None:
        raise DecodeError
    return message


@contextmanager
def typed_errors(address: str, tries: int = 1, *, begun: bool = False) -> Iterator[None]:
    """Turn gRPC errors raised inside the block into typed ones.

    Args:
        address: the server's.
        tries: which try of the call it is, from 1.
        begun: part of the answer has come.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _typed(error, address, tries, begun) from error
    except DecodeError as error:
        raise InternalError(
            "the reply is no message of Triptych's", address=address, tries=tries, begun=begun
        ) from error


def _typed(error: grpc.RpcError, address: str, tries: int, begun: bool) -> TriptychError:
    # Every RpcError that a call raises is a grpc.Call too; grpc's types do not say so.
    status: grpc.StatusCode = error.code()
    message: str = error.details() or status.name
    made = _CLASSES.get(status, TriptychError)
    details = _unpack(error.trailing_metadata() or ())
    return made(message, address=address, status=status, details=details, tries=tries, begun=begun)


def _unpack(metadata: Iterable[Any]) -> _Details:
    """Read the `google.rpc.Status` that a Triptych server sends beside the gRPC status."""
    packed = next((value for key, value in metadata if key == _DETAILS_KEY), None)
    try:
        boxes = status_pb2.Status.FromString(packed).details if packed else ()
    except DecodeError:
        return _Details()  # from a proxy on the way; the gRPC status still stands
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for box in boxes:
        if not box.Unpack(info) and not box.Unpack(bad) and box.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    violations = (FieldViolation(one.field, one.description) for one in bad.field_violations)
    return _Details(info.reason, tuple(violations), retry_after_s)
