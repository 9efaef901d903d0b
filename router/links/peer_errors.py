"""Failures of other services as failures of the request: the same status, in our own words."""

from __future__ import annotations

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from chassis.errors import (
    DOMAIN,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestFailed,
    ServiceError,
    TooLarge,
    Unavailable,
    error_info,
)
from protos import model_pb2

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


_PROMPT_FIELDS = frozenset({"prompt", "ids", "slab"})  # names that peers have for the prompt


class ReplicaLost(Exception):
    """A replica went away before the request had ended; it starts again from where it was."""


def is_away(error: aio.AioRpcError) -> bool:
    """Tell whether the peer is gone, so that the call may be made again."""
    return error.code() in _AWAY


def from_peer(error: aio.AioRpcError, service: str, field: str = "prompt") -> ServiceError:
    """The failure of a request for which a call to `service` failed with `error`.

    Args:
        error: of the call.
        service: its name.
        field: name of the part of the request that was sent to it.
    """
    message, info = error.details() or "", error_info(error)
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        violation = _violation(error)
        if violation is None:
            return InvalidRequest(field, message)
        named = field if violation.field in _PROMPT_FIELDS else violation.field
        return InvalidRequest(named, violation.description)
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NotFound(message)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if info is None or info.reason == TooLarge.reason:  # gRPC's own words on a message
            return InvalidRequest(field, f"too long for a message to or from the {service}")
        return Overloaded(f"{service}: {message}")
    if is_away(error) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the {service} is away")
    if info is not None and info.domain == DOMAIN and info.reason != RequestFailed.reason:
        return RequestFailed(info.reason, message)
    return RequestFailed("PEER_FAILED", f"the {service} failed; its log has more")


def from_refusal(refusal: model_pb2.Refusal) -> ServiceError:
    """The failure of a request that the model refused."""
    code, message = refusal.code, refusal.message
    if code == code_pb2.INVALID_ARGUMENT:
        is_prompt = not refusal.field or refusal.field in _PROMPT_FIELDS
        return InvalidRequest("prompt" if is_prompt else refusal.field, message)
    if code == code_pb2.RESOURCE_EXHAUSTED:
        return Overloaded(message)
    if code == code_pb2.UNAVAILABLE:
        return Unavailable(message)
    return RequestFailed("REFUSED_BY_MODEL", message)


def _violation(error: aio.AioRpcError) -> error_details_pb2.BadRequest.FieldViolation | None:
    """The first field violation that the peer named."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for box in status_pb2.Status.FromString(value).details:
                bad_request = error_details_pb2.BadRequest()
                if box.Unpack(bad_request) and bad_request.field_violations:
                    return bad_request.field_violations[0]
    return None
