"""Calls of a service: each request is read, checked and parsed, each end counted and answered.

A request's bytes are dropped once they are parsed; what would be held beyond the bound is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import cache
from types import TracebackType
from typing import Any, Self, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from prometheus_client import CollectorRegistry, Counter

from chassis.errors import (
    STOPPING,
    InvalidRequest,
    ServiceError,
    UnknownMethod,
    answered,
    cause_of,
    is_end_of_call,
    is_stopping,
)
from chassis.serving.intake import Intake, hold_request

log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Check = Callable[[bytes], None]
"""Raises a `ServiceError` where the bytes of a request pass a bound."""

_UNKNOWN = "unknown"  # method of calls to methods that are not there
_METHOD_BYTES = 200

_INCOMPLETE = "incomplete_request"  # outcome of calls that gRPC ends before their request is whole
_CUT_OFF_S = 0.1  # it does so right after the request seems to be missing


class CallInterceptor(aio.ServerInterceptor):
    """Runs each call of a server, from its request to its status.

    Attributes:
        checks: by full method name, what its requests are checked with before they are parsed.
        intake: bounds the requests that are held.
    """

    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        """Count the calls of `service` in `registry`."""
        self.checks: dict[str, Check] = {}
        self.intake = Intake()
        ended = Counter(
            f"triptych_{service}_calls",
            "Calls ended, by method and outcome.",
            ["method", "outcome"],
            registry=registry,
        )
        self._count_of = cache(ended.labels)
        self._running: set[asyncio.Task[Any]] = set()
        self._handlers: dict[str, Any] = {}  # by full name of each method that was called

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return grpc.stream_stream_rpc_method_handler(self._refuse(method))
            known = self._handlers[method] = self._handling(method, handler)
        return known

    def _handling(self, method: str, handler: Any) -> Any:
        """The handler of all calls of `method`, which `handler` answers."""
        converse = self._stream if handler.request_streaming else self._single
        behaviour = self._run(method, converse(method, handler))
        if handler.response_streaming:
            serialize = handler.response_serializer
            return grpc.stream_stream_rpc_method_handler(behaviour, None, serialize)
        return grpc.stream_unary_rpc_method_handler(behaviour)

    def _refuse(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def refuse(requests: Any, context: Context, record: _Record) -> Any:
            raise UnknownMethod(f"there is no method {method[:_METHOD_BYTES]}")

        return self._run(_UNKNOWN, refuse)

    def _run(
        self, method: str, converse: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def call(requests: Any, context: Context) -> Any:
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            try:
                return await answered(method, context, recorded(requests, context))
            finally:
                self._running.discard(task)

        async def recorded(requests: Any, context: Context) -> Any:
            with _Record(self._count_of, method, context) as record:
                return await converse(requests, context, record)

        return call

    def _single(self, method: str, handler: Any) -> Callable[..., Awaitable[Any]]:
        """The behaviour of `handler`, whose request is one message."""
        respond = _responding(handler)

        async def converse(requests: Any, context: Context, record: _Record) -> Any:
            counted = method in self.intake.methods
            if counted:
                self.intake.check()
            raw = await _read(context, record)
            hold = hold_request(self.intake, len(raw) if counted else 0)
            try:
                response = respond(self._parse(method, handler, raw), context)
                del raw
                record.begun = True
                return await response
            finally:
                hold.let_go()

        return converse

    def _stream(self, method: str, handler: Any) -> Callable[..., Awaitable[Any]]:
        """The behaviour of `handler`, whose requests are a stream."""
        respond = _responding(handler)

        def parse(raw: bytes) -> Any:
            return self._parse(method, handler, raw)

        async def converse(requests: Any, context: Context, record: _Record) -> Any:
            record.begun = True
            return await respond(_parsed(requests, parse), _ParsingContext(context, parse))

        return converse

    def _parse(self, method: str, handler: Any, raw: bytes) -> Any:
        check, deserialize = self.checks.get(method), handler.request_deserializer
        try:
            if check is not None:
                check(raw)
            return raw if deserialize is None else deserialize(raw)
        except DecodeError as error:
            raise InvalidRequest("request", "cannot be decoded") from error

    def stop(self) -> None:
        """End all calls with `Stopping`."""
        for task in self._running:
            task.cancel(STOPPING)

    async def all_ended(self) -> None:
        """Wait until no handler runs; a stopped server has cancelled them without waiting."""
        if self._running:
            await asyncio.wait(self._running)


def _responding(handler: Any) -> Callable[..., Awaitable[Any]]:
    """The behaviour of `handler` as a coroutine; where replies are a stream, it writes them.

    A single reply becomes bytes in it, so that one that cannot is answered like any failure.
    """
    kind = (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}"
    )
    behaviour: Callable[..., Any] = getattr(handler, kind)
    serialize = None if handler.response_streaming else handler.response_serializer
    if inspect.isasyncgenfunction(behaviour):
        return _writing(behaviour)
    if serialize is None:
        return behaviour

    async def respond(request: Any, context: Context) -> Any:
        reply = behaviour(request, context)
        del request
        return serialize(await reply)

    return respond


def _writing(behaviour: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def respond(request: Any, context: Context) -> None:
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return respond


async def _read(context: Context, record: _Record) -> bytes:
    """Read the only request of a call.

    Raises:
        InvalidRequest: the caller has sent none.
    """
    raw = await context.read()
    if raw is aio.EOF:
        record.incomplete = True
        await asyncio.sleep(_CUT_OFF_S)
        record.incomplete = False
        raise InvalidRequest("request", "missing")
    return cast(bytes, raw)


async def _parsed(requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> Any:
    async for raw in requests:
        yield parse(raw)


class _ParsingContext:
    """A call's context that reads messages instead of bytes."""

    def __init__(self, context: Context, parse: Callable[[bytes], Any]) -> None:
        self._context = context
        self._parse = parse
        self.write = context.write

    async def read(self) -> Any:
        raw = await self._context.read()
        return raw if raw is aio.EOF else self._parse(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class _Record:
    """Counts how a call ends; one that is refused before it has begun is logged here.

    Attributes:
        begun: a servicer has it, and writes the log's line about it.
        incomplete: its request did not come whole.
    """

    def __init__(
        self, count_of: Callable[[str, str], Counter], method: str, context: Context
    ) -> None:
        self.begun = False
        self.incomplete = False
        self._count_of = count_of
        self._method = method
        self._context = context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = _INCOMPLETE if self.incomplete else outcome_of(error, self._context)
        self._count_of(self._method, outcome).inc()
        if self.incomplete:
            self._log_end("the request is larger than the limit, or its caller went away")
        elif isinstance(error, ServiceError) and not self.begun:
            self._log_end(str(error))

    def _log_end(self, cause: str) -> None:
        log.info("call refused", extra={"method": self._method, "cause": cause})


def outcome_of(error: BaseException | None, context: Context) -> str:
    """Outcome of a call in one word: `ok`, the reason of its error, or the side that ended it."""
    error = cause_of(error) if isinstance(error, Exception) else error
    if error is None:
        return "ok"
    if isinstance(error, ServiceError):
        return error.reason.lower()
    if is_stopping(error):
        return STOPPING
    if isinstance(error, asyncio.CancelledError) or is_end_of_call(error):
        # gRPC cancels a call whose deadline passes.
        return "deadline_exceeded" if context.time_remaining() == 0 else "cancelled"
    return "internal"
