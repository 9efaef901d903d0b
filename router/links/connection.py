"""Keeping a stream to another service open for as long as the router lives.

Whatever ends a stream, it is opened again; the channel's own backoff covers a peer that is away,
the pause here one that answers and refuses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc import aio

from chassis.errors import error_info

log = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.05
PAUSE_MOST_S = 1.0
_EXPECTED = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ALREADY_EXISTS}
)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended.

    Attributes:
        orderly: one of its ends meant it; else a process or a connection is gone.
    """

    code: grpc.StatusCode
    details: str
    orderly: bool

    @property
    def closed_here(self) -> bool:
        """Whether this side closed it."""
        return self is _CLOSED_HERE


_CLOSED_HERE = Ending(grpc.StatusCode.CANCELLED, "closed here", orderly=True)


class ReconnectingStream:
    """Runs a conversation again and again."""

    def __init__(self, converse: Callable[[], Awaitable[bool]]) -> None:
        """Keep `converse` running; it answers whether the peer accepted the stream."""
        self._converse = converse
        self._task: asyncio.Task[bool] | None = None

    async def run(self) -> NoReturn:
        """Run it until cancelled."""
        pause_s = PAUSE_FIRST_S
        while True:
            async with asyncio.TaskGroup() as group:
                self._task = group.create_task(self._run())
            accepted = not self._task.cancelled() and self._task.result()
            pause_s = PAUSE_FIRST_S if accepted else min(2 * pause_s, PAUSE_MOST_S)
            # Not a poll: a peer that refuses at once must not be asked again at once.
            await asyncio.sleep(pause_s)

    def restart(self) -> None:
        """End the conversation that is going on, and so begin another."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> bool:
        return await self._converse()


class Conversation(Generic[Request, Response]):
    """A bidirectional stream that begins with a greeting and is opened again when it ends.

    What is sent while it is not open is dropped: the peer has dropped what it was about.
    """

    def __init__(
        self,
        open_call: Callable[[], aio.StreamStreamCall[Request, Response]],
        greet: Callable[[], Request],
        receive: Callable[[Response], None],
        ended: Callable[[Ending], None],
    ) -> None:
        """Describe the stream.

        Args:
            open_call: opens it, waiting for the peer.
            greet: makes its first request.
            receive: takes each response.
            ended: told when an accepted stream ends, or one was refused, and how.
        """
        self._open_call = open_call
        self._greet = greet
        self._receive = receive
        self._ended = ended
        self._outgoing: asyncio.Queue[Request] | None = None
        self._reopened = ReconnectingStream(self._converse)

    async def run(self) -> NoReturn:
        """Keep the stream open until cancelled."""
        await self._reopened.run()

    def restart(self) -> None:
        """Close the stream and open another."""
        self._reopened.restart()

    def send(self, message: Request) -> None:
        """Send `message` after those before it."""
        if self._outgoing is not None:
            self._outgoing.put_nowait(message)

    async def _converse(self) -> bool:
        call = self._open_call()
        accepted = False
        ending = _CLOSED_HERE
        async with asyncio.TaskGroup() as group:
            outgoing: asyncio.Queue[Request] = asyncio.Queue()
            outgoing.put_nowait(self._greet())
            writer = group.create_task(_write(call, outgoing))
            try:
                while (message := await call.read()) is not aio.EOF:
                    if not accepted:
                        accepted = True
                        self._outgoing = outgoing
                    self._receive(cast(Response, message))
                ending = Ending(await call.code(), await call.details() or "", orderly=True)
            except aio.AioRpcError as error:
                said = error_info(error) is not None
                ending = Ending(error.code(), error.details() or "", orderly=said)
            finally:
                self._outgoing = None
                writer.cancel()
                call.cancel()
                self._ended(ending)
        if not accepted and ending.code not in _EXPECTED:
            log.warning("stream refused", extra={"code": ending.code.name, "cause": ending.details})
        return accepted


async def _write(
    call: aio.StreamStreamCall[Request, Response], outgoing: asyncio.Queue[Request]
) -> None:
    """Send what is queued; the reader finds out why the stream has ended."""
    try:
        while True:
            await call.write(await outgoing.get())
    except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
        log.debug("stream ended while writing")
