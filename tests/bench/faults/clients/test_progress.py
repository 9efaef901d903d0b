"""Waiting for a round to come so far."""

import asyncio

from bench.faults.clients.progress import Progress


async def test_who_waits_goes_on_at_the_message_waited_for_and_not_before():
    progress = Progress()
    progress.begin()
    wait = asyncio.ensure_future(progress.reached(2))
    await asyncio.sleep(0)
    progress.advance()
    await asyncio.sleep(0)
    early = wait.done()
    progress.advance()
    await wait

    assert not early


async def test_what_has_been_reached_already_is_not_waited_for():
    progress = Progress()
    progress.begin()
    progress.advance()

    await progress.reached(1)


async def test_all_waits_end_with_the_last_request_and_not_before():
    progress = Progress()
    progress.begin()
    progress.begin()
    wait = asyncio.ensure_future(progress.reached(1000))
    await asyncio.sleep(0)
    progress.end()
    await asyncio.sleep(0)
    early = wait.done()
    progress.end()
    await wait

    assert not early
