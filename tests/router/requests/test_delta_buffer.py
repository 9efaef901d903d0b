from __future__ import annotations

import asyncio

import pytest

from chassis.errors import Unavailable
from router.requests.delta_buffer import MERGED, DeltaBuffer
from router.requests.parameters import OutputOptions
from router.requests.results import Delta, Finish

LENGTH = Finish.LENGTH


def delta(text="", candidate=0, ids=(), **more):
    return Delta(1, 1, candidate, 0, ids, text, **more)


def delta_buffer(steps_apart=4, **options):
    return DeltaBuffer(OutputOptions(**options), steps_apart)


async def taken(buffer: DeltaBuffer) -> list[str]:
    return [part.text for part in await buffer.take()]


async def test_steps_stay_apart_and_a_steps_candidates_together():
    buffer = delta_buffer()
    for step in range(2):
        buffer.add(delta(f"x{step}", candidate=1), step)
        buffer.add(delta(f"y{step}", candidate=0), step)

    assert await taken(buffer) == ["y0", "x0"]
    assert await taken(buffer) == ["y1", "x1"]


async def test_steps_a_slow_client_missed_are_merged_in_order():
    buffer = delta_buffer(steps_apart=2, token_ids=True)
    for step, letter in enumerate("abcd"):
        buffer.add(
            delta(letter, ids=[step], finish=LENGTH if letter == "d" else Finish.UNSPECIFIED), step
        )
    buffer.close()

    assert await taken(buffer) == ["a"]
    (last,) = await buffer.take()
    assert (last.text, last.token_ids, last.finish) == ("bcd", [1, 2, 3], LENGTH)
    assert buffer.drained


async def test_what_a_slow_client_missed_is_not_merged_beyond_a_message():
    buffer = delta_buffer(steps_apart=1 + 1, token_ids=True)
    for step in range(5000):
        buffer.add(delta("a", ids=[step]), step)
    buffer.add(delta(finish=LENGTH), 5000)
    buffer.close()

    counts = []
    while not buffer.drained:
        (part,) = await buffer.take()
        counts.append(len(part.token_ids))
    assert sum(counts) == 5000
    assert 4 < len(counts) < 10
    assert max(counts) <= 1024


async def test_a_client_that_wants_all_at_once_gets_one_part_however_long():
    buffer = delta_buffer(steps_apart=MERGED, token_ids=True)
    for step in range(5000):
        buffer.add(delta("a", ids=[step]), step)
    buffer.close()

    (part,) = await buffer.take()
    assert len(part.token_ids) == 5000


async def test_ids_and_logprobs_are_given_only_where_asked_for():
    scores = [object()]
    moved = delta("a", ids=[7], logprobs=scores)
    plain, asked = delta_buffer(), delta_buffer(token_ids=True, logprobs=0)
    plain.add(moved, 0)
    asked.add(moved, 0)

    (part,) = await plain.take()
    assert (part.token_ids, part.logprobs) == ([], [])
    (part,) = await asked.take()
    assert (part.token_ids, part.logprobs) == ([7], [scores])


async def test_a_step_that_has_nothing_for_the_client_is_no_step():
    buffer = delta_buffer()
    buffer.add(delta("", ids=[1]), 0)
    buffer.add(delta("é", ids=[2]), 1)

    assert await taken(buffer) == ["é"]


async def test_what_matched_comes_with_the_ending():
    buffer = delta_buffer()
    buffer.add(delta("a", finish=Finish.STOP, matched_stop="END"), 0)
    buffer.add(delta("b", candidate=1, finish=Finish.STOP, matched_token_id=9), 0)

    first, second = await buffer.take()
    assert (first.matched_stop, second.matched_token_id) == ("END", 9)


async def test_whole_candidates_come_once_all_have_ended():
    buffer = delta_buffer(steps_apart=1)
    waiting = asyncio.create_task(buffer.take())
    buffer.add(delta("a"), 0)
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.add(delta("b", finish=LENGTH), 1)
    buffer.close()

    assert [part.text for part in await waiting] == ["ab"]


async def test_nothing_is_given_out_while_withheld():
    buffer = delta_buffer()
    buffer.withhold(True)
    buffer.add(delta("a"), 0)
    waiting = asyncio.create_task(taken(buffer))
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.withhold(False)

    assert await waiting == ["a"]


async def test_a_failure_is_told_at_once():
    buffer = delta_buffer()
    waiting = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    buffer.fail(Unavailable("gone"))

    with pytest.raises(Unavailable, match="gone"):
        await waiting
