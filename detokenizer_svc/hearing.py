"""Listening to the bell of a token ring on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chassis.bell import Listener
from protos.announcement import ANNOUNCEMENT_BYTES, Announcement, read_announcements


def listen(name: str) -> Listener | None:
    """Listen to the bell `name`, or answer None where there is none or it cannot be heard."""
    if not name:
        return None
    try:
        return Listener(name, ANNOUNCEMENT_BYTES)
    except (OSError, ValueError):
        return None


@contextmanager
def hearing(
    listener: Listener | None, take: Callable[[Announcement], None]
) -> Iterator[asyncio.Future[None]]:
    """Hand each announcement to `take` for the block.

    What `take` raises ends that, and is the outcome of the future.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    if listener is None:
        yield failed
        return

    def hear() -> None:
        try:
            heard = listener.hear()
            for announcement in read_announcements(heard or b""):
                take(announcement)
        except Exception as error:  # noqa: BLE001  (handed to whoever waits for it)
            loop.remove_reader(listener)
            failed.set_exception(error)
            return
        if heard is None:  # the owner is gone, of which the stream of messages tells
            loop.remove_reader(listener)

    loop.add_reader(listener, hear)
    try:
        yield failed
    finally:
        loop.remove_reader(listener)
        listener.close()
        failed.cancel()
