"""The client's side of gRPC over simulated links: what we use of `grpc.aio.Channel` and calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio
from support.simulation.lanes import CANCELLED, LOST, End
from support.simulation.links import Link
from support.simulation.streams import Stream


class MemoryCall:
    """A call as its caller sees it."""

    def __init__(self, link: Link, method: str, serialize: Any, parse: Any) -> None:
        self.method = method
        self._loop = link.loop
        self._serialize = serialize
        self._parse = parse
        self._stream: Stream | None = None
        self._open: asyncio.Future[None] = link.loop.create_future()
        self._end: asyncio.Future[End] = link.loop.create_future()

    def opened(self, stream: Stream) -> None:
        """Go over `stream`."""
        self._stream = stream
        self._open.set_result(None)

    def refuse(self) -> None:
        """End before it began."""
        self._finish(LOST)

    def done(self) -> bool:
        return self._end.done()

    def cancelled(self) -> bool:
        return self.done() and self._end.result() is CANCELLED

    def cancel(self) -> bool:
        if self.done():
            return False
        self._finish(CANCELLED)
        if self._stream is not None:
            self._stream.client_gives_up(CANCELLED)
        return True

    async def code(self) -> grpc.StatusCode:
        return (await self._status()).code

    async def details(self) -> str:
        return (await self._status()).details

    async def trailing_metadata(self) -> aio.Metadata:
        return aio.Metadata(*(await self._status()).metadata)

    async def read(self) -> Any:
        stream = await self._ready()
        if stream is None:
            return aio.EOF
        try:
            item = await stream.down.take()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not isinstance(item, End):
            return self._parse(item)
        self._finish(item)
        self._raise()
        return aio.EOF

    async def write(self, message: Any) -> None:
        if self.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        stream = await self._ready()
        if stream is None:
            return
        try:
            await stream.up.room()
        except asyncio.CancelledError:
            self.cancel()
            raise
        end = stream.down.end
        if end is not None:
            # How a call ended is known once all has been read, but for a connection that is gone.
            if end is LOST or not stream.down.arrived:
                self._finish(end)
            await self._status()
            self._raise()
        stream.up.send(self._serialize(message))

    async def _ready(self) -> Stream | None:
        """The stream, once it is open; None where the call has ended well."""
        if not (self._open.done() or self.done()):
            try:
                await asyncio.wait((self._open, self._end), return_when="FIRST_COMPLETED")
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.done():
            self._raise()
            return None
        return self._stream

    async def _status(self) -> End:
        return await asyncio.shield(self._end)

    def _raise(self) -> None:
        end = self._end.result()
        if end is CANCELLED:
            raise asyncio.CancelledError
        if end.code is not grpc.StatusCode.OK:
            raise end.error()

    def _finish(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)


class MemoryChannel:
    """A channel over one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._calls: list[MemoryCall] = []

    async def __aenter__(self) -> MemoryChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        for call in self._calls:
            call.cancel()

    def stream_stream(
        self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Callable[..., MemoryCall]:
        def call(*, wait_for_ready: bool | None = None) -> MemoryCall:
            return self._begin(method, request_serializer, response_deserializer, wait_for_ready)

        return call

    def unary_unary(
        self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Callable[..., Awaitable[Any]]:
        async def call(
            request: Any, *, timeout: float | None = None, wait_for_ready: bool | None = None
        ) -> Any:
            begun = self._begin(method, request_serializer, response_deserializer, wait_for_ready)
            try:
                async with asyncio.timeout(timeout):
                    with suppress(asyncio.InvalidStateError):  # the reader finds out why
                        await begun.write(request)
                    return await begun.read()
            except TimeoutError:
                raise End(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded").error() from None
            finally:
                begun.cancel()

        return call

    def _begin(self, method: str, serialize: Any, parse: Any, wait: bool | None) -> MemoryCall:
        call = MemoryCall(self._link, method, serialize, parse)
        self._calls = [each for each in self._calls if not each.done()]
        self._calls.append(call)
        if wait or self._link.reachable:
            self._link.open(call)
        else:
            self._link.loop.call_soon(call.refuse)
        return call
