"""Listening to the bell of a token ring on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chassis.memory.doorbell import Listener
from protos.announcement import ANNOUNCEMENT_BYTES, Announcement, read_announcements


@contextmanager
def listening(name: str) -> Iterator[Listener | None]:
    """Listen to the bell `name` for the block; None where it is empty or cannot be heard."""
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
        failed.cancel()
