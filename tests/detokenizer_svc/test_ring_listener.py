"""Announcements arrive on the event loop; an error there ends the wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chassis.memory.doorbell import Doorbell
from detokenizer_svc.ring_listener import listening, receiving
from protos.announcement import Announcement, write_announcement
from protos.token_frame import FrameError

FIRST = Announcement(sequence=1, offset=64, length=48, acknowledge=False)
SECOND = Announcement(sequence=2, offset=112, length=80, acknowledge=True)


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    bell = Doorbell.create()
    yield bell
    bell.close()


async def test_announcements_are_taken_in_order(bell: Doorbell) -> None:
    taken: asyncio.Queue[Announcement] = asyncio.Queue()
    async with asyncio.timeout(10):
        with listening(bell.name) as listener:
            bell.ring(write_announcement(FIRST))  # before the loop hears
            with receiving(listener, taken.put_nowait) as failed:
                assert await taken.get() == FIRST
                bell.ring(write_announcement(SECOND))
                assert await taken.get() == SECOND
                assert not failed.done()


async def test_what_cannot_be_taken_ends_it(bell: Doorbell) -> None:
    def refuse(announcement: Announcement) -> None:
        raise FrameError(f"no frame at {announcement.offset}")

    async with asyncio.timeout(10):
        with listening(bell.name) as listener, receiving(listener, refuse) as failed:
            bell.ring(write_announcement(FIRST))
            with pytest.raises(FrameError, match="no frame at 64"):
                await failed


async def test_an_owner_that_is_gone_is_not_heard_for_ever() -> None:
    bell = Doorbell.create()
    with listening(bell.name) as listener, receiving(listener, lambda _: None) as failed:
        bell.close()
        await asyncio.sleep(0)  # the loop sees the end of the pipe in its next round
        await asyncio.sleep(0)
        assert not asyncio.get_running_loop().remove_reader(listener)
        assert not failed.done()


@pytest.mark.parametrize("name", ["", "../etc", f"triptych-bell-{'0' * 16}"])
def test_a_bell_that_is_not_there_is_not_listened_to(name: str) -> None:
    with listening(name) as listener:
        assert listener is None
