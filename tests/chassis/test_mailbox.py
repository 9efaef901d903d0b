from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from chassis.mailbox import Mailbox


async def test_messages_come_in_order():
    mailbox: Mailbox[int] = Mailbox()
    for message in (1, 2, 3):
        mailbox.put(message)
    assert [await mailbox.take() for _ in range(3)] == [1, 2, 3]


async def test_the_reader_waits_for_a_message():
    mailbox: Mailbox[str] = Mailbox()
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.put("a")
    assert await reader == "a"


async def test_gathered_content_comes_after_messages_and_as_one():
    gathered: list[int] = []

    def gather() -> str | None:
        told = "".join(map(str, gathered)) or None
        gathered.clear()
        return told

    mailbox = Mailbox(gather)
    for content in (1, 2, 3):
        gathered.append(content)
        mailbox.notify()
    mailbox.put("first")
    assert [await mailbox.take() for _ in range(2)] == ["first", "123"]
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.notify()  # of nothing
    await asyncio.sleep(0)
    assert not reader.done()
    gathered.append(4)
    mailbox.notify()
    assert await reader == "4"


async def test_a_failure_to_gather_is_raised_to_the_reader():
    def gather() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await Mailbox(gather).take()


async def test_the_reader_is_woken_by_the_given_post_only():
    posted: list[Callable[[], None]] = []
    mailbox: Mailbox[int] = Mailbox(post=posted.append)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put(1)
    await asyncio.sleep(0)
    assert not reader.done()
    posted.pop()()
    assert await reader == 1
