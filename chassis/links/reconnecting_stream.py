"""Streams to another service that are opened again whenever they end.

The channel's own backoff covers a peer that is away; the pauses here, a peer that answers and
refuses.
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

from chassis.backoff import Backoff
from chassis.errors import error_info
from chassis.mailbox import Mailbox

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
    """End of a stream.

    Attributes:
        orderly: true if one of its sides ended it; else a process or a connection is gone.
    """

    code: grpc.StatusCode
    details: str
    orderly: bool

    @property
    def closed_here(self) -> bool:
        """True if this side closed it."""
        return self is _CLOSED_HERE


_CLOSED_HERE = Ending(grpc.StatusCode.CANCELLED, "closed here", orderly=True)


class Reconnector:
    """Runs one conversation after another."""

    def __init__(self, converse: Callable[[], Awaitable[bool]]) -> None:
        """Keep `converse` running; it returns whether the peer accepted the stream."""
        self._converse = converse
        self._task: asyncio.Task[bool] | None = None

    async def run(self) -> NoReturn:
        """Run it until cancelled."""
        pauses = Backoff(PAUSE_FIRST_S, PAUSE_MOST_S)
        while True:
            async with asyncio.TaskGroup() as group:
                self._task = group.create_task(self._run())
            if not self._task.cancelled() and self._task.result():
                pauses.reset()
            # Not a poll: a peer that refuses at once must not be asked again at once.
            await asyncio.sleep(pauses.next_s())

    def restart(self) -> None:
        """End the conversation that is going on, and so begin another."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> bool:
        return await self._converse()


class ReconnectingStream(Generic[Request, Response]):
    """A bidirectional stream that begins with a greeting and is opened again when it ends.

    Messages that are sent while it is not open are dropped: the peer has dropped their subject.
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
            ended: called when an accepted stream ends, or one was refused.
        """
        self._open_call = open_call
        self._greet = greet
        self._receive = receive
        self._ended = ended
        self._outgoing: Mailbox[Request] | None = None
        self._reconnector = Reconnector(self._converse)

    async def run(self) -> NoReturn:
        """Keep the stream open until cancelled."""
        await self._reconnector.run()

    def restart(self) -> None:
        """Close the stream and open another."""
        self._reconnector.restart()

    def send(self, message: Request) -> None:
        """Send `message` after those before it."""
        if self._outgoing is not None:
            self._outgoing.put(message)

    async def _converse(self) -> bool:
        call = self._open_call()
        accepted = False
        ending = _CLOSED_HERE
        async with asyncio.TaskGroup() as group:
            outgoing: Mailbox[Request] = Mailbox()
            outgoing.put(self._greet())
            writer = group.create_task(write_from(outgoing, call))
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


async def write_from(
    outgoing: Mailbox[Request], call: aio.StreamStreamCall[Request, Response]
) -> None:
    """Write messages until the stream ends; its reader finds out why."""
    try:
        while True:
            await call.write(await outgoing.take())
    except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
        log.debug("stream ended while writing")
