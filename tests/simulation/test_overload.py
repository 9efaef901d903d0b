"""Under more work than there is time for, what is admitted ends in time; the rest hears early."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from support.simulation.overload import MOST_ROWS, Call, World, capacity, on_two_cores

from router.admission.demand import Demand, Ticket
from router.admission.ledger import Ledger
from router.admission.pace import Pace


def twice_as_slow_after_two_seconds(now: float, rows: int) -> float:
    """Seconds of a step, where something else takes half of the machine after a while."""
    return on_two_cores(now, rows) * (1 if now < 2 else 2)


def burst(world: World, calls: int, *, at: float = 0.0, tokens: int, patience_s: float) -> None:
    """Have `calls` come within a second."""
    for number in range(calls):
        world.at(at + number / calls, Call(tokens, patience_s))


def arrivals(world: World, draw: Callable[[random.Random], Call], rate: float, end: float) -> None:
    """Have calls come at random moments, `rate` a second."""
    chance, now = random.Random(7), 0.0
    while now < end:
        now += chance.expovariate(rate)
        world.at(now, draw(chance))


@pytest.mark.parametrize(
    ("calls", "tokens", "patience_s"), [(1500, 100, 8.0), (600, 50, 3.0), (1000, 100, 4.0)]
)
def test_of_many_calls_at_once_those_that_are_admitted_end_in_time(calls, tokens, patience_s):
    world = World()
    burst(world, calls, tokens=tokens, patience_s=patience_s)
    world.play()
    outcomes = world.outcomes()
    last = max(call.ended_at for call in world.calls if call.outcome == "ok")

    assert outcomes.get("late", 0) <= 0.01 * calls
    assert world.goodput(0, last + 0.001) > 0.8 * capacity()
    refused = sorted(call.took_s for call in world.calls if call.outcome in ("refused", "full"))
    assert refused[len(refused) // 2] < 0.5
    assert refused[int(0.95 * len(refused))] < patience_s / 4


def test_a_speed_that_is_known_is_used_at_once():
    world = World()
    for number in range(64):
        world.at(number / 1000, Call(100, None))
    burst(world, 1500, at=20.0, tokens=100, patience_s=8.0)
    world.play()
    last = max(call.ended_at for call in world.calls)
    refused = sorted(call.took_s for call in world.calls if call.outcome == "refused")

    assert world.outcomes().get("late", 0) == 0
    assert world.goodput(20.0, last + 0.001) > 0.85 * capacity()
    assert refused[int(0.95 * len(refused))] < 0.5


@pytest.mark.parametrize("replicas", [1, 2])
def test_five_times_too_much_work_leaves_the_goodput_near_capacity(replicas):
    world = World(replicas=replicas)
    rate = 5 * replicas * capacity() / 100
    arrivals(world, lambda _: Call(100, 8.0), rate, end=30.0)
    world.play()

    assert world.goodput(10.0, 30.0) >= 0.9 * replicas * capacity()
    assert world.outcomes().get("late", 0) <= 0.01 * len(world.calls)


def test_without_a_forecast_hardly_anything_ends_in_time(monkeypatch):
    monkeypatch.setattr(Pace, "known", property(lambda _: False))
    monkeypatch.setattr("router.admission.forecast._BLIND_ROWS", MOST_ROWS)
    world = World()
    arrivals(world, lambda _: Call(100, 8.0), 5 * capacity() / 100, end=30.0)
    world.play()

    assert world.goodput(10.0, 30.0) < 0.2 * capacity()


def test_mixed_deadlines_and_lengths_leave_the_goodput_near_capacity():
    world = World()

    def draw(chance: random.Random) -> Call:
        return Call(chance.choice([20, 50, 100]), chance.choice([4.0, 8.0, 60.0]))

    arrivals(world, draw, 3 * capacity() / 57, end=60.0)
    world.play()

    assert world.goodput(20.0, 60.0) >= 0.9 * capacity()
    assert world.outcomes().get("late", 0) <= 0.02 * len(world.calls)


def test_streams_without_deadlines_go_on_beside_the_others():
    world = World()

    def draw(chance: random.Random) -> Call:
        return Call(100, chance.choice([8.0, 8.0, 8.0, None]))

    arrivals(world, draw, 2 * capacity() / 100, end=40.0)
    world.play()
    patient = [call for call in world.calls if call.patience_s is None]

    assert {call.outcome for call in patient} == {"ok"}
    assert world.goodput(10.0, 40.0) >= 0.9 * capacity()


def test_calls_that_a_replica_can_serve_are_not_refused():
    world = World()
    arrivals(world, lambda _: Call(100, 8.0), 0.6 * capacity() / 100, end=40.0)
    world.play()

    assert world.outcomes() == {"ok": len(world.calls)}


def test_calls_without_deadlines_all_end_whatever_comes():
    world = World()
    for number in range(1000):
        world.at(number / 1000, Call(50, None))
    world.play()

    assert world.outcomes() == {"ok": 1000}


def test_outputs_that_stop_by_themselves_are_counted_for_what_they_last():
    world = World()

    def draw(chance: random.Random) -> Call:
        return Call(2000, 10.0, stops_after=1 + min(1999, int(chance.expovariate(1 / 60))))

    arrivals(world, draw, 0.5 * capacity() / 60, end=40.0)
    world.play()

    assert world.outcomes()["ok"] > 0.95 * len(world.calls)


def test_what_started_before_the_machine_got_slow_is_ended_in_part_for_the_rest():
    world = World(twice_as_slow_after_two_seconds)
    burst(world, 1000, tokens=100, patience_s=8.0)
    world.play()

    assert world.outcomes()["ok"] * 100 > 0.5 * 8 * capacity(twice_as_slow_after_two_seconds, now=3)


def test_nobody_is_overtaken_by_one_of_the_same_priority():
    world = World()
    arrivals(world, lambda _: Call(100, 60.0), 3 * capacity() / 100, end=10.0)
    started: list[int] = []
    leave = Ledger.enter

    def enter(ledger: Ledger, ticket: Ticket, demand: Demand) -> None:
        started.append(ticket.arrival)
        leave(ledger, ticket, demand)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "enter", enter)
        world.play()

    assert started == sorted(started)
