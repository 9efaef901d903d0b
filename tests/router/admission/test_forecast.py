from __future__ import annotations

import pytest

from router.admission.demand import Demand, Ticket
from router.admission.forecast import Forecast, Outlook
from router.admission.ledger import Ledger
from router.admission.pace import Pace
from router.admission.queue import AdmissionQueue

NOW = 100.0
STEP_S = 0.1


def ledger(
    *, rows: int = 64, step_s: float = STEP_S, slots: int = 10_000, most: int = 64
) -> Ledger:
    """One of a replica that makes a token of each of up to `rows` rows in `step_s`."""
    pace = Pace()
    for step in range(40):
        pace.frame(step * step_s, rows, rows, 0)
    pace.pause()
    return Ledger(slots, most, pace)


def demand(tokens: int, **more: object) -> Demand:
    return Demand(1, tokens, {0: 0}, may_stop=False, **more)  # type: ignore[arg-type]


class Line:
    """A queue with requests in line."""

    def __init__(self) -> None:
        self.queue = AdmissionQueue(1000)

    def add(self, tokens: int, left_s: float | None, priority: int = 0) -> Ticket:
        ticket = self.queue.arrive(priority, None if left_s is None else NOW + left_s)
        self.queue.line_up(ticket, demand(tokens))
        return ticket

    def refused(self, *ledgers: Ledger) -> list[Ticket]:
        return [late.ticket for late in Forecast(ledgers, self.queue.line(), NOW).refused]


def running(one: Ledger, tokens: int, left_s: float | None, *, made: int = 0) -> Ticket:
    """A request that has run for `made` tokens, and has a deadline."""
    deadline = None if left_s is None else NOW + left_s
    ticket = Ticket(0, -len(one), deadline, rank=(0, -len(one)))
    one.enter(ticket, demand(tokens))
    if made:
        one.grow(ticket, 0, made)
    return ticket


def test_who_has_the_time_is_not_refused_and_who_lacks_it_is():
    line, busy = Line(), ledger()
    running(busy, 10, None)
    line.add(10, 2.0)
    short = line.add(10, 0.9)

    assert line.refused(busy) == [short]


def test_a_refusal_says_how_long_it_would_have_taken():
    line, busy = Line(), ledger(most=1)
    running(busy, 50, None)
    line.add(10, 3.0)
    (late,) = Forecast([busy], line.queue.line(), NOW).refused

    assert late.left_s == pytest.approx(3.0)
    assert late.needed_s >= 3.0 + 10 * STEP_S


def test_a_refusal_never_says_that_there_is_time():
    line, busy = Line(), ledger()
    running(busy, 10, None)
    line.add(100, 10.5)
    (late,) = Forecast([busy], line.queue.line(), NOW).refused

    assert late.needed_s > late.left_s


def test_a_deadline_far_ahead_is_judged_when_it_is_near():
    line, busy = Line(), ledger()
    hopeless = running(busy, 1_000_000, 70.0), running(busy, 1_000_000, 70.0)
    waiting = line.add(1_000_000, 65.0)

    assert not line.refused(busy)
    assert not list(Outlook(busy, NOW).late(NOW))
    assert Outlook(busy, NOW).allows(waiting, NOW)
    (refused,) = Forecast([busy], line.queue.line(), NOW + 10.0).refused
    assert refused.ticket == waiting
    (ended,) = Outlook(busy, NOW + 15.0).late(NOW + 15.0)
    assert ended.ticket in hopeless


def test_what_runs_and_waits_before_it_counts():
    line, busy = Line(), ledger(most=1)
    running(busy, 20, None)
    line.add(20, None)
    assert line.refused(busy) == []
    late = line.add(20, 5.0)
    assert line.refused(busy) == [late]
    line.queue.leave(late)
    line.add(20, 10.0)
    assert line.refused(busy) == []


def test_who_is_refused_takes_no_time_from_those_behind():
    line, busy = Line(), ledger(most=1)
    running(busy, 10, None)
    hopeless = line.add(1000, 20.0)
    line.add(10, 4.0)

    assert line.refused(busy) == [hopeless]


def test_requests_without_a_deadline_are_never_refused():
    line, busy = Line(), ledger(most=1)
    running(busy, 10_000, None)
    line.add(10_000, None)

    assert line.refused(busy) == []


def test_nobody_is_refused_before_a_speed_was_measured():
    line, busy = Line(), Ledger(10_000, 1)
    running(busy, 10_000, None)
    line.add(10_000, 0.1)

    assert line.refused(busy) == []


def test_who_has_been_admitted_before_is_not_refused():
    line, busy = Line(), ledger(most=1)
    running(busy, 1000, None)
    line.add(100, 1.0).admitted = True

    assert line.refused(busy) == []


def test_an_idle_replica_may_be_faster_than_it_was_but_not_by_any_factor():
    line, idle = Line(), ledger()
    line.add(15, 1.0)
    assert line.refused(idle) == []
    hopeless = line.add(1000, 1.0)
    assert line.refused(idle) == [hopeless]


def test_kv_slots_limit_how_many_run():
    line, narrow = Line(), ledger(slots=25)
    running(narrow, 20, None)
    late = line.add(20, 3.0)

    assert line.refused(narrow) == [late]
    assert line.refused(ledger(slots=60)) == []


def test_a_second_replica_takes_half():
    line = Line()
    one, other = ledger(most=1), ledger(most=1)
    running(one, 100, None)
    running(other, 10, None)
    line.add(10, 3.0)
    late = line.add(10, 2.5)

    assert line.refused(one, other) == [late]


def test_who_comes_between_two_looks_is_refused_where_it_is_clear():
    line, busy = Line(), ledger(most=1)
    running(busy, 50, None)
    forecast = Forecast([busy], line.queue.line(), NOW)
    queue = line.queue

    assert forecast.refuses(queue.arrive(0, NOW + 5.5), demand(10)) is not None
    assert forecast.refuses(queue.arrive(0, NOW + 9.0), demand(10)) is None
    assert forecast.refuses(queue.arrive(0), demand(10)) is None


def test_who_goes_before_others_is_not_judged_by_the_end_of_the_line():
    line, busy = Line(), ledger(most=1)
    running(busy, 10, None)
    line.add(100, None)
    forecast = Forecast([busy], line.queue.line(), NOW)

    assert forecast.refuses(line.queue.arrive(0, NOW + 4.0), demand(10)) is not None
    assert forecast.refuses(line.queue.arrive(-1, NOW + 4.0), demand(10)) is None


def test_only_so_many_start_as_end_in_time_together():
    line, fresh = Line(), ledger(rows=10, step_s=0.1)
    started = 0
    outlook = Outlook(fresh, NOW)
    while outlook.allows(ticket := line.add(10, 3.0), NOW):
        fresh.enter(ticket, ticket.asked)
        outlook.start(ticket)
        started += 1

    assert 10 < started < 30  # thirty rows are measured by none, and taken for three times as slow


def test_few_start_before_a_speed_was_measured():
    line, fresh = Line(), Ledger(10_000, 64)
    started = 0
    outlook = Outlook(fresh, NOW)
    while outlook.allows(ticket := line.add(10, 1.0), NOW):
        fresh.enter(ticket, ticket.asked)
        started += 1

    assert 1 < started < 20
    assert outlook.allows(line.add(10, None), NOW)


def test_what_runs_keeps_the_speed_that_it_needs():
    line, busy = Line(), ledger(rows=40, step_s=0.1)
    for _ in range(40):
        running(busy, 20, 1.9)

    assert not Outlook(busy, NOW).allows(line.add(10, None), NOW)
    for ticket in [ticket for ticket, _ in busy.work()]:
        busy.leave(ticket)
    for _ in range(40):
        running(busy, 20, 10.0)
    assert Outlook(busy, NOW).allows(line.add(10, None), NOW)


def test_one_that_needs_a_replica_for_itself_does_not_keep_it():
    line, busy = Line(), ledger(rows=40, step_s=0.1)
    running(busy, 20, 2.01)

    assert Outlook(busy, NOW).allows(line.add(10, None), NOW)


def test_of_those_that_are_late_some_are_ended_for_the_others():
    busy = ledger(rows=40, step_s=0.1)
    tickets = [running(busy, 30, 2.0) for _ in range(40)]
    ended = [late.ticket for late in Outlook(busy, NOW).late(NOW)]

    assert 0 < len(ended) <= 10
    assert set(ended) <= set(tickets)


def test_the_longest_of_those_that_are_late_are_ended():
    busy = ledger(rows=40, step_s=0.1)
    running(busy, 30, 2.0)
    longest = running(busy, 60, 2.0)
    running(busy, 100, 20.0)

    assert [late.ticket for late in Outlook(busy, NOW).late(NOW)] == [longest]


def test_a_single_one_that_is_late_is_let_go_on():
    busy = ledger(rows=40, step_s=0.1)
    running(busy, 30, 2.0)
    running(busy, 30, None)

    assert not list(Outlook(busy, NOW).late(NOW))
