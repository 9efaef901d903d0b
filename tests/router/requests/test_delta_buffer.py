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


def outbox(steps_apart=4, **options):
    return DeltaBuffer(OutputOptions(**options), steps_apart)


async def taken(box: DeltaBuffer) -> list[str]:
    return [part.text for part in await box.take()]


async def test_steps_stay_apart_and_a_steps_candidates_together():
    box = outbox()
    for step in range(2):
        box.add(delta(f"x{step}", candidate=1), step)
        box.add(delta(f"y{step}", candidate=0), step)

    assert await taken(box) == ["y0", "x0"]
    assert await taken(box) == ["y1", "x1"]


async def test_steps_a_slow_client_missed_are_merged_in_order():
    box = outbox(steps_apart=2, token_ids=True)
    for step, letter in enumerate("abcd"):
        box.add(
            delta(letter, ids=[step], finish=LENGTH if letter == "d" else Finish.UNSPECIFIED), step
        )
    box.close()

    assert await taken(box) == ["a"]
    (last,) = await box.take()
    assert (last.text, last.token_ids, last.finish) == ("bcd", [1, 2, 3], LENGTH)
    assert box.drained


async def test_what_a_slow_client_missed_is_not_merged_beyond_a_message():
    box = outbox(steps_apart=1 + 1, token_ids=True)
    for step in range(5000):
        box.add(delta("a", ids=[step]), step)
    box.add(delta(finish=LENGTH), 5000)
    box.close()

    counts = []
    while not box.drained:
        (part,) = await box.take()
        counts.append(len(part.token_ids))
    assert sum(counts) == 5000
    assert 4 < len(counts) < 10
    assert max(counts) <= 1024


async def test_a_client_that_wants_all_at_once_gets_one_part_however_long():
    box = outbox(steps_apart=MERGED, token_ids=True)
    for step in range(5000):
        box.add(delta("a", ids=[step]), step)
    box.close()

    (part,) = await box.take()
    assert len(part.token_ids) == 5000


async def test_ids_and_logprobs_are_given_only_where_asked_for():
    scores = [object()]
    moved = delta("a", ids=[7], logprobs=scores)
    plain, asked = outbox(), outbox(token_ids=True, logprobs=0)
    plain.add(moved, 0)
    asked.add(moved, 0)

    (part,) = await plain.take()
    assert (part.token_ids, part.logprobs) == ([], [])
    (part,) = await asked.take()
    assert (part.token_ids, part.logprobs) == ([7], [scores])


async def test_a_step_that_has_nothing_for_the_client_is_no_step():
    box = outbox()
    box.add(delta("", ids=[1]), 0)
    box.add(delta("é", ids=[2]), 1)

    assert await taken(box) == ["é"]


async def test_what_matched_comes_with_the_ending():
    box = outbox()
    box.add(delta("a", finish=Finish.STOP, matched_stop="END"), 0)
    box.add(delta("b", candidate=1, finish=Finish.STOP, matched_token_id=9), 0)

    first, second = await box.take()
    assert (first.matched_stop, second.matched_token_id) == ("END", 9)


async def test_whole_candidates_come_once_all_have_ended():
    box = outbox(steps_apart=1)
    waiting = asyncio.create_task(box.take())
    box.add(delta("a"), 0)
    await asyncio.sleep(0)
    assert not waiting.done()
    box.add(delta("b", finish=LENGTH), 1)
    box.close()

    assert [part.text for part in await waiting] == ["ab"]


async def test_nothing_is_given_out_while_withheld():
    box = outbox()
    box.withhold(True)
    box.add(delta("a"), 0)
    waiting = asyncio.create_task(taken(box))
    await asyncio.sleep(0)
    assert not waiting.done()
    box.withhold(False)

    assert await waiting == ["a"]


async def test_a_failure_is_told_at_once():
    box = outbox()
    waiting = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.fail(Unavailable("gone"))

    with pytest.raises(Unavailable, match="gone"):
        await waiting
