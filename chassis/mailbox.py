"""Messages on their way to one reader, such as the writer of a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Post = Callable[[Callable[[], None]], object]
"""Has a call made on the event loop, from any thread."""


def at_once(call: Callable[[], None]) -> None:
    """Post to the thread that posts."""
    call()


def _nothing() -> None:
    """Gather no message."""


class Mailbox(Generic[T]):
    """Messages in order; once they are taken, one made of what has gathered meanwhile."""

    def __init__(self, gather: Callable[[], T | None] = _nothing, post: Post = at_once) -> None:
        """Begin empty.

        Args:
            gather: makes a message of what has gathered; None: there is nothing. Its exceptions
                are raised to the reader.
            post: has the reader woken, where messages are put by another thread.
        """
        self._gather = gather
        self._post = post
        self._messages: deque[T] = deque()
        self._wake = asyncio.Event()

    def put(self, message: T) -> None:
        """Send `message` after those put before it, and before anything that gathers."""
        self._messages.append(message)
        self._post(self._wake.set)

    def notify(self) -> None:
        """Have the reader gather."""
        self._post(self._wake.set)

    async def take(self) -> T:
        """The next message, once there is one."""
        while True:
            if self._messages:
                return self._messages.popleft()
            message = self._gather()
            if message is not None:
                return message
            self._wake.clear()
            await self._wake.wait()
