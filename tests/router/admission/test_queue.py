from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.policies.first_come import FirstCome
from chassis.policies.policy import Claim, Rank
from router.admission.demand import Demand
from router.admission.ledger import Ledger
from router.admission.quarantine import Standing
from router.admission.queue import AdmissionQueue, QueueFull

CLEAR, SUSPECT, ISOLATED, CLEARED = Standing
KV_SLOTS = 1000
SEQUENCES = 6
LIMIT = 8

demands = st.builds(
    Demand,
    prompt_tokens=st.integers(1, 600),
    max_tokens=st.integers(0, 400),
    outputs=st.dictionaries(st.integers(0, 3), st.sampled_from([0, 0, 1, 300]), max_size=4),
    standing=st.sampled_from([CLEAR, CLEAR, SUSPECT, ISOLATED, CLEARED]),
)


def admitted(queue: AdmissionQueue, **ledgers: Ledger) -> list[str]:
    return [key for _, key in queue.admit(ledgers)]


def lined_up(queue: AdmissionQueue, demand: Demand, priority: int = 0):
    ticket = queue.arrive(priority)
    queue.line_up(ticket, demand)
    return ticket


def test_reserves_the_prompt_once_and_at_most_128_tokens_a_candidate():
    assert Demand.fresh(prompt_tokens=10, candidates=3, max_tokens=500).slots == 10 + 3 * 128
    assert Demand.fresh(prompt_tokens=10, candidates=3, max_tokens=5).slots == 10 + 3 * 5


def test_lower_priority_numbers_run_first_and_equals_in_order_of_arrival():
    queue = AdmissionQueue(LIMIT)
    late, first, second = (
        lined_up(queue, Demand.fresh(1, 1, 1), priority) for priority in (5, 0, 0)
    )

    assert [ticket for ticket, _ in queue.admit({"r": Ledger(KV_SLOTS, 8)})] == [
        first,
        second,
        late,
    ]


def test_a_request_that_does_not_fit_is_not_overtaken():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    lined_up(queue, Demand.fresh(600, 1, 0))
    lined_up(queue, Demand.fresh(600, 1, 0))
    lined_up(queue, Demand.fresh(1, 1, 0))

    assert admitted(queue, r=ledger) == ["r"]
    assert len(queue) == 2


def test_a_ticket_whose_demand_is_unknown_holds_nobody_up():
    queue = AdmissionQueue(LIMIT)
    queue.arrive(priority=-1)
    lined_up(queue, Demand.fresh(1, 1, 1))

    assert admitted(queue, r=Ledger(KV_SLOTS, 8)) == ["r"]
    assert len(queue) == 1


def test_a_full_queue_refuses_and_takes_again_once_one_has_left():
    queue = AdmissionQueue(1)
    ticket = queue.arrive(0)
    with pytest.raises(QueueFull, match="1 requests wait"):
        queue.arrive(0)
    queue.leave(ticket)
    queue.arrive(0)


def test_who_queues_again_keeps_its_place_even_where_the_queue_is_full():
    queue, ledger = AdmissionQueue(1), Ledger(KV_SLOTS, 8)
    early = lined_up(queue, Demand.fresh(1, 1, 1))
    assert admitted(queue, r=ledger) == ["r"]
    late = lined_up(queue, Demand.fresh(1, 1, 1))
    ledger.leave(early)
    queue.line_up(early, Demand.fresh(1, 1, 1))

    assert [ticket for ticket, _ in queue.admit({"r": ledger})] == [early, late]


def test_those_who_leave_do_not_pile_up_behind_a_head_that_waits():
    queue = AdmissionQueue(LIMIT)
    lined_up(queue, Demand.fresh(1, 1, 1), priority=-1)
    for _ in range(1000):
        queue.leave(lined_up(queue, Demand.fresh(1, 1, 1)))

    assert len(queue._line) < 200


def test_the_least_committed_replica_is_chosen_by_its_share():
    queue = AdmissionQueue(LIMIT)
    small, large = Ledger(100, 8), Ledger(1000, 8)
    small.enter(queue.arrive(0), Demand.fresh(20, 1, 0))
    large.enter(queue.arrive(0), Demand.fresh(100, 1, 0))
    lined_up(queue, Demand.fresh(10, 1, 0))

    assert admitted(queue, small=small, large=large) == ["large"]


def test_an_empty_replica_takes_a_request_that_reserves_more_than_it_has():
    queue = AdmissionQueue(LIMIT)
    lined_up(queue, Demand.fresh(prompt_tokens=90, candidates=16, max_tokens=128))

    assert admitted(queue, r=Ledger(kv_slots=100, max_sequences=1)) == ["r"]


def test_candidates_are_limited_by_the_sequences_a_replica_runs():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, max_sequences=4)
    lined_up(queue, Demand.fresh(1, 3, 1))
    lined_up(queue, Demand.fresh(1, 2, 1))

    assert admitted(queue, r=ledger) == ["r"]


def test_a_candidate_holds_what_it_reserved_until_it_has_produced_more():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    ticket = queue.arrive(0)
    ledger.enter(ticket, Demand.fresh(10, 1, 400))
    ledger.grow(ticket, 0, 100)
    assert ledger.committed == 10 + 128
    ledger.grow(ticket, 0, 100)
    assert ledger.committed == 10 + 200
    ledger.finish(ticket, 0)
    assert (ledger.committed, ledger.sequences) == (10, 0)
    ledger.leave(ticket)
    assert ledger.committed == 0


def test_a_report_above_the_own_count_counts_with_submits_it_has_not_seen_on_top():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    seen, unseen = queue.arrive(0), queue.arrive(0)
    ledger.enter(seen, Demand.fresh(10, 1, 0))
    ledger.submit(seen)
    ledger.enter(unseen, Demand.fresh(20, 2, 0))
    ledger.submit(unseen)
    ledger.report(submits_seen=1, kv_slots_used=500, sequences=3)
    assert (ledger.committed, ledger.sequences) == (520, 5)
    ledger.report(submits_seen=2, kv_slots_used=5, sequences=1)
    assert (ledger.committed, ledger.sequences) == (30, 3)


def demand(standing: Standing) -> Demand:
    return Demand(prompt_tokens=1, max_tokens=1, outputs={0: 0}, standing=standing)


def test_nothing_starts_beside_a_suspect_until_it_is_cleared():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    suspect = lined_up(queue, demand(SUSPECT))
    lined_up(queue, demand(CLEAR))

    assert [ticket for ticket, _ in queue.admit({"r": ledger})] == [suspect]
    assert admitted(queue, r=ledger) == []
    ledger.clear(suspect)
    assert admitted(queue, r=ledger) == ["r"]


def test_a_suspect_starts_among_cleared_requests_only():
    queue, tried, untried = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8), Ledger(KV_SLOTS, 8)
    tried.enter(queue.arrive(0), demand(CLEARED))
    untried.enter(queue.arrive(0), demand(CLEAR))
    lined_up(queue, demand(SUSPECT))

    assert admitted(queue, untried=untried) == []
    assert admitted(queue, untried=untried, tried=tried) == ["tried"]


def test_an_isolated_suspect_goes_before_all_others_and_by_itself():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    cleared = lined_up(queue, demand(CLEARED), priority=-1)
    isolated = lined_up(queue, demand(ISOLATED), priority=5)

    assert [ticket for ticket, _ in queue.admit({"r": ledger})] == [isolated]
    ledger.leave(isolated)
    assert [ticket for ticket, _ in queue.admit({"r": ledger})] == [cleared]
    lined_up(queue, demand(ISOLATED))
    assert admitted(queue, r=ledger) == []


def test_a_suspect_that_leaves_keeps_nobody_out():
    queue, ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, 8)
    suspect = queue.arrive(0)
    ledger.enter(suspect, demand(SUSPECT))
    ledger.leave(suspect)
    ledger.enter(queue.arrive(0), demand(CLEAR))

    assert ledger.fits(demand(CLEAR))


class ShortestFirst(FirstCome):
    """Admits the shortest prompt first."""

    def admission_rank(self, claim: Claim) -> Rank:
        return (claim.prompt_tokens, claim.arrival)


def test_the_policy_orders_the_line():
    queue, ledger = AdmissionQueue(LIMIT, ShortestFirst()), Ledger(KV_SLOTS, 8)
    long, short, isolated = (
        lined_up(queue, Demand(tokens, 1, {0: 0}, standing=standing))
        for tokens, standing in ((9, CLEAR), (3, CLEAR), (12, ISOLATED))
    )
    assert queue.line() == [isolated, short, long]
    ledger.enter(queue.arrive(0), demand(CLEAR))
    queue.leave(isolated)
    assert [ticket for ticket, _ in queue.admit({"r": ledger})] == [short, long]


class Admission(RuleBasedStateMachine):
    """The queue before one replica, against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.ledger = AdmissionQueue(LIMIT), Ledger(KV_SLOTS, SEQUENCES)
        self.arrived = []
        self.line = []
        self.running = {}
        self.standings = {}

    @rule(priority=st.integers(-1, 1))
    def arrive(self, priority):
        if len(self.arrived) + len(self.line) >= LIMIT:  # more where some queue again
            with pytest.raises(QueueFull):
                self.queue.arrive(priority)
        else:
            self.arrived.append(self.queue.arrive(priority))

    @precondition(lambda self: self.arrived)
    @rule(data=st.data(), demand=demands)
    def line_up(self, data, demand):
        ticket = data.draw(st.sampled_from(self.arrived))
        self.arrived.remove(ticket)
        self.line.append(ticket)
        self.queue.line_up(ticket, demand)

    @precondition(lambda self: self.line or self.arrived)
    @rule(data=st.data())
    def give_up(self, data):
        ticket = data.draw(st.sampled_from(self.arrived + self.line))
        (self.line if ticket in self.line else self.arrived).remove(ticket)
        self.queue.leave(ticket)

    @rule()
    def admit(self):
        for ticket, _ in self.queue.admit({"r": self.ledger}):
            assert ticket is min(self.line), "somebody was overtaken"
            self.line.remove(ticket)
            before = self.slots()
            others = [self.standings[other] for other in self.running]
            self.running[ticket] = dict(ticket.demand.outputs)
            self.standings[ticket] = ticket.demand.standing
            assert not {SUSPECT, ISOLATED} & set(others), "a suspect is not alone of its kind"
            if ticket.demand.standing is SUSPECT:
                assert set(others) <= {CLEARED}, "a suspect runs beside others than cleared ones"
            if ticket.demand.standing is ISOLATED:
                assert not others, "an isolated request is not alone"
            if len(self.running) > 1:
                assert before + ticket.demand.slots <= KV_SLOTS
                assert sum(map(len, self.running.values())) <= SEQUENCES
        assert not self.line or self.running, "the head waits for nobody"

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data(), tokens=st.integers(1, 300))
    def produce(self, data, tokens):
        ticket, candidate = self.draw_candidate(data)
        self.running[ticket][candidate] += tokens
        self.ledger.grow(ticket, candidate, tokens)

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data())
    def finish(self, data):
        ticket, candidate = self.draw_candidate(data)
        del self.running[ticket][candidate]
        self.ledger.finish(ticket, candidate)

    @rule()
    def clear(self):
        for ticket in self.running:
            if self.standings[ticket] in (SUSPECT, ISOLATED):
                self.ledger.clear(ticket)
                self.standings[ticket] = CLEARED

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def end(self, data, again):
        ticket = data.draw(st.sampled_from(list(self.running)))
        del self.running[ticket]
        self.ledger.leave(ticket)
        self.ledger.leave(ticket)
        if again:
            self.line.append(ticket)
            self.queue.line_up(ticket, ticket.demand)

    def draw_candidate(self, data):
        pairs = [(t, c) for t, produced in self.running.items() for c in produced]
        return data.draw(st.sampled_from(pairs))

    def slots(self):
        return sum(
            ticket.demand.prompt_tokens
            + sum(max(ticket.demand.reserved_tokens, made) for made in produced.values())
            for ticket, produced in self.running.items()
        )

    @invariant()
    def figures_agree(self):
        assert len(self.queue) == len(self.arrived) + len(self.line)
        assert len(self.ledger) == len(self.running)
        assert self.ledger.committed == self.slots()
        assert self.ledger.sequences == sum(map(len, self.running.values()))

    def teardown(self):
        for ticket in list(self.running):
            self.ledger.leave(ticket)
        assert (self.ledger.committed, self.ledger.sequences, len(self.ledger)) == (0, 0, 0)
        order = []
        while batch := list(self.queue.admit({"r": self.ledger})):
            for ticket, _ in batch:
                order.append(ticket)
                self.ledger.leave(ticket)
        assert order == sorted(self.line), "somebody starved"


TestAdmission = Admission.TestCase
