"""The simulated loop: time passes when told to, and a paused process does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.simulation.loop import Process, SimulatedLoop

from chassis.memory.doorbell import Doorbell, Listener


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    with loop.running():
        yield loop


async def count(into: list[float], every_s: float = 1.0) -> None:
    """Note the time again and again."""
    while True:
        await asyncio.sleep(every_s)
        into.append(asyncio.get_running_loop().time())


def test_the_clock_stands_until_it_is_moved(loop: SimulatedLoop) -> None:
    times: list[float] = []
    loop.start(Process("p"), count(times))
    loop.settle()
    assert (times, loop.time()) == ([], 0.0)
    loop.advance(2.5)
    assert (times, loop.time()) == ([1.0, 2.0], 2.5)
    assert loop.advance_to_next_timer()
    assert times == [1.0, 2.0, 3.0]


def test_a_timeout_ends_what_it_is_about(loop: SimulatedLoop) -> None:
    async def wait() -> str:
        try:
            async with asyncio.timeout(120):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "went on"

    task = loop.start(Process("p"), wait())
    loop.advance(119)
    assert not task.done()
    loop.advance(1)
    assert task.result() == "timed out"
    assert not loop.advance_to_next_timer()


def test_a_paused_process_does_nothing_and_then_goes_on_where_it_was(loop: SimulatedLoop) -> None:
    asleep, awake = Process("asleep"), Process("awake")
    slow: list[float] = []
    fast: list[float] = []
    loop.start(asleep, count(slow))
    loop.start(awake, count(fast))
    loop.advance(1)
    loop.pause(asleep)
    loop.advance(2)
    assert (slow, fast) == ([1.0], [1.0, 2.0, 3.0])
    loop.resume(asleep)
    loop.settle()
    assert slow == [1.0, 3.0]


def test_what_a_process_starts_belongs_to_it(loop: SimulatedLoop) -> None:
    times: list[float] = []

    async def start() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(count(times))

    process, other = Process("p"), Process("other")
    loop.start(process, start())
    loop.start(other, count([]))
    loop.settle()
    assert len(loop.tasks(process)) == 2
    loop.kill(process)
    loop.advance(5)
    assert (times, loop.tasks(process), len(loop.tasks(other))) == ([], [], 1)
    loop.kill(other)


def test_callbacks_without_end_are_found(loop: SimulatedLoop) -> None:
    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(AssertionError, match="without end"):
        loop.settle()


def test_what_a_callback_raises_is_kept(loop: SimulatedLoop) -> None:
    loop.call_soon(lambda: 1 / 0)
    loop.settle()
    assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)


def test_a_pipe_is_read_where_its_process_runs(loop: SimulatedLoop, tmp_path: Path) -> None:
    bell = Doorbell.create(tmp_path)
    listener = Listener(bell.name, 1, tmp_path)
    process, heard = Process("p"), list[bytes | None]()
    loop.call(process, loop.add_reader, listener, lambda: heard.append(listener.hear()))
    loop.pause(process)
    bell.ring(b"a")
    loop.settle()
    assert heard == []
    loop.resume(process)
    loop.settle()
    assert heard == [b"a"]
    assert loop.remove_reader(listener)
    bell.ring(b"b")
    loop.settle()
    assert heard == [b"a"]
    listener.close()
    bell.close()
