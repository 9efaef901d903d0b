"""The server's side of gRPC over simulated links: what we use of a server, its contexts and calls.

Where the two ends of a call find out at different times that it is cut, the client may have begun
the next while the server still works off what came over the last.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from prometheus_client import CollectorRegistry
from support.simulation.lanes import CANCELLED, FINISHED, LOST, End, Lane
from support.simulation.loop import Process

from chassis.links import channels
from chassis.serving import server
from chassis.serving.calls import CallInterceptor

if TYPE_CHECKING:
    from support.simulation.links import Link

CLIENT_NOTICES_S = channels.KEEPALIVE_S + channels.KEEPALIVE_TIMEOUT_S
SERVER_NOTICES_S = server.KEEPALIVE_S + server.KEEPALIVE_TIMEOUT_S
_TURNS_TO_READ = 50


class MemoryServer:
    """Where servicers are added, as to a `grpc.aio.Server`; errors are answered as ours are."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._handlers: dict[str, Any] = {}
        self._interceptor = CallInterceptor("test", CollectorRegistry())

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Not needed: the registered ones are the same."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def handler(self, method: str) -> Any:
        """What answers `method`."""

        async def find(details: Any) -> Any:
            return self._handlers[method]

        details = grpc.HandlerCallDetails()
        details.method = method
        return await self._interceptor.intercept_service(find, details)


class Context:
    """A stream as its handler sees it: what we use of `grpc.aio.ServicerContext`."""

    def __init__(self, up: Lane, down: Lane, serialize: Any) -> None:
        self.end = FINISHED
        self._up = up
        self._down = down
        self._serialize = serialize
        self._begun = False

    async def read(self) -> Any:
        item = await self._up.take()
        return aio.EOF if isinstance(item, End) else item

    async def write(self, message: Any) -> None:
        self._begun = True
        await self._down.room()
        if self._up.end is not None:
            raise aio.InternalError("the caller is gone")
        self._down.send(self._serialize(message))

    def time_remaining(self) -> None:
        """No call has a deadline."""

    async def send_initial_metadata(self, metadata: Any) -> None:
        if self._begun:
            raise aio.UsageError("sent already")
        self._begun = True

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        self.end = End(code, details, tuple(trailing))
        raise aio.AbortError


class UnderWay(enum.Enum):
    """What becomes of messages that are under way when a connection breaks."""

    ARRIVES = enum.auto()  # before the end that they go to finds out
    LOST = enum.auto()
    LATE = enum.auto()  # what goes to the server: when the client may be back already


class Stream:
    """One call on its way between its two ends."""

    def __init__(
        self,
        link: Link,
        serving: MemoryServer,
        method: str,
        heard_end: Callable[[Stream], None],
    ) -> None:
        """Begin it; `heard_end` is told when the client has heard its end."""
        self.process = serving.process
        self._heard_end = heard_end
        self.up = Lane(link.up, link.loop, self._client_gone)
        self.down = Lane(link.down, link.loop, self._server_gone)
        self._link = link
        self.up.send(b"")  # the call itself
        self._task = link.loop.start(self.process, self._serve(serving, method))

    def cut(self, under_way: UnderWay) -> None:
        """Cut it in the middle; each end finds out as its lane lets it."""
        self.up.late = under_way is UnderWay.LATE
        self.down.sever(LOST, losing=under_way is UnderWay.LOST)
        self.up.sever(LOST, losing=under_way is UnderWay.LOST)

    def client_gives_up(self, end: End = LOST) -> None:
        """The client hears nothing more; the server finds out behind what is under way."""
        self.up.sever(end)
        self.down.lose(end)

    def server_gives_up(self) -> None:
        """The server hears nothing more; the client finds out behind what is under way."""
        self.down.sever(LOST)
        self.up.lose(LOST)

    def _client_gone(self) -> None:
        """The handler is cancelled, at once or when it has read what has arrived."""
        if self._link.network.reads_before_end:
            context = self.process.context.copy()
            self._link.loop.call_soon(self._cancel_soon, _TURNS_TO_READ, context=context)
        else:
            self._task.cancel()

    def _cancel_soon(self, turns: int) -> None:
        if self.up.arrived and turns:
            self._link.loop.call_soon(self._cancel_soon, turns - 1)
        else:
            self._task.cancel()

    def _server_gone(self) -> None:
        self.up.sever(LOST)
        self._heard_end(self)

    async def _serve(self, serving: MemoryServer, method: str) -> None:
        end = CANCELLED
        try:
            if isinstance(await self.up.take(), End):
                return
            handler = await serving.handler(method)
            context = Context(self.up, self.down, handler.response_serializer)
            try:
                await self._answer(handler, context)
            except aio.AbortError:
                pass
            except aio.InternalError:
                return  # the caller is gone
            end = context.end
        finally:
            self.down.sever(end)
            self.up.lose(FINISHED)

    async def _answer(self, handler: Any, context: Context) -> None:
        if handler.response_streaming:
            await handler.stream_stream(None, context)
        else:
            self.down.send(await handler.stream_unary(None, context))
