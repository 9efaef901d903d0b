"""Announcements of a token ring, received from its doorbell on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chassis.errors import failing
from chassis.memory.doorbell import Listener
from protos.announcement import ANNOUNCEMENT_BYTES, Announcement, read_announcements


@contextmanager
def listening(name: str) -> Iterator[Listener | None]:
    """Open the doorbell `name` for the block; None if the name is empty or cannot be opened."""
    try:
        listener = Listener(name, ANNOUNCEMENT_BYTES) if name else None
    except (OSError, ValueError):
        listener = None
    try:
        yield listener
    finally:
        if listener is not None:
            listener.close()


@contextmanager
def receiving(
    listener: Listener | None, on_announcement: Callable[[Announcement], None]
) -> Iterator[asyncio.Future[None]]:
    """Call `on_announcement` for each announcement during the block.

    An error of the callback ends that, and becomes the outcome of the future.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    if listener is None:
        yield failed
        return

    def receive() -> None:
        received = None
        with failing(failed):
            received = listener.hear()
            for announcement in read_announcements(received or b""):
                on_announcement(announcement)
        # None: the owner is gone, and the stream of messages will end too.
        if received is None or failed.done():
            loop.remove_reader(listener)

    loop.add_reader(listener, receive)
    try:
        yield failed
    finally:
        loop.remove_reader(listener)
        failed.cancel()
