"""What runs in a step, and what must wait."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_svc.scheduler import Scheduler, Sequence
from model_svc.slot_pool import SlotPool


def scheduler(slots=64, rows=4, context=64, max_batch_tokens=8):
    return Scheduler(SlotPool(slots), rows=rows, context=context, max_batch_tokens=max_batch_tokens)


def sequence(arrival, known, priority=0, candidate=0):
    return Sequence(order=(priority, arrival, candidate), known=known)


def step(scheduler):
    plan = scheduler.plan()
    for chunk in plan.chunks:
        for drawn in chunk.draws:
            drawn.known += 1
    return plan


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks():
    s = scheduler(max_batch_tokens=8)
    s.add(sequence(0, known=20))

    plans = [step(s) for _ in range(3)]

    assert [plan.tokens for plan in plans] == [8, 8, 4]
    assert [len(plan.chunks[0].draws) for plan in plans] == [0, 0, 1]


def test_decodes_go_first_and_prompts_get_what_is_left():
    s = scheduler(max_batch_tokens=8)
    s.add(sequence(0, known=3))
    step(s)
    s.add(sequence(1, known=30))

    plan = step(s)

    assert [(chunk.sequence.order[1], chunk.count) for chunk in plan.chunks] == [(0, 1), (1, 7)]


def test_a_small_sequence_never_overtakes_a_large_one():
    s = scheduler(slots=32, max_batch_tokens=64)
    s.add(sequence(0, known=20))
    step(s)
    s.add(sequence(1, known=20))
    s.add(sequence(2, known=2))

    assert [chunk.sequence.order[1] for chunk in step(s).chunks] == [0]
    assert s.waiting == 2


def test_a_lower_priority_number_runs_first():
    s = scheduler(rows=1)
    late, urgent = sequence(0, known=2), sequence(1, known=2, priority=-1)
    s.add(late)
    s.add(urgent)

    assert [chunk.sequence for chunk in step(s).chunks] == [urgent]


def test_the_youngest_is_put_back_when_slots_run_out_and_recomputed_later():
    s = scheduler(slots=12, max_batch_tokens=16)
    old, young = sequence(0, known=4), sequence(1, known=4)
    s.add(old)
    step(s)
    s.add(young)
    preempted = []
    while not preempted:
        preempted = step(s).preempted

    assert preempted == [young]
    assert (young.computed, young.row, s.waiting) == (0, -1, 1)
    known = young.known
    s.remove(old)
    assert [(c.sequence, c.start, c.count) for c in step(s).chunks] == [(young, 0, known)]


def test_followers_share_the_slots_of_their_leaders_prompt():
    pool = SlotPool(64)
    s = Scheduler(pool, rows=4, context=64, max_batch_tokens=32)
    leader = sequence(0, known=10)
    leader.followers = [sequence(0, known=10, candidate=i) for i in (1, 2)]
    s.add(leader)
    assert s.waiting == 3

    plan = step(s)

    assert [drawn.order[2] for drawn in plan.chunks[0].draws] == [0, 1, 2]
    assert pool.used_slots == 10
    step(s)
    assert pool.used_slots == 13


def test_followers_without_a_row_compute_the_prompt_themselves():
    s = scheduler(rows=1, max_batch_tokens=16)
    leader = sequence(0, known=5)
    follower = sequence(0, known=5, candidate=1)
    leader.followers = [follower]
    s.add(leader)
    step(s)
    assert (s.running, s.waiting) == (1, 1)

    s.remove(leader)

    assert step(s).chunks[0].sequence is follower


def test_removing_a_leader_before_its_prompt_is_computed_keeps_its_followers():
    s = scheduler(max_batch_tokens=4)
    leader = sequence(0, known=10)
    leader.followers = [sequence(0, known=10, candidate=i) for i in (1, 2)]
    first = leader.followers[0]
    s.add(leader)
    step(s)

    s.remove(leader)
    for _ in range(3):
        plan = step(s)

    assert [drawn.order[2] for drawn in plan.chunks[0].draws] == [1, 2]
    assert plan.chunks[0].sequence is first


def test_a_budget_smaller_than_the_rows_is_refused():
    with pytest.raises(ValueError, match="4 tokens a step cannot serve 8 decodes"):
        scheduler(rows=8, max_batch_tokens=4)


class Run(RuleBasedStateMachine):
    """Any arrivals and cancellations; every sequence has its length and ends when it reaches it."""

    SLOTS, ROWS, CONTEXT, BUDGET = 40, 4, 32, 6

    def __init__(self):
        super().__init__()
        self.pool = SlotPool(self.SLOTS)
        self.scheduler = Scheduler(
            self.pool, rows=self.ROWS, context=self.CONTEXT, max_batch_tokens=self.BUDGET
        )
        self.lengths: dict[Sequence, int] = {}
        self.arrivals = 0

    @rule(
        prompt=st.integers(1, 20),
        output=st.integers(1, 12),
        n=st.integers(1, 3),
        priority=st.integers(-1, 1),
    )
    def arrive(self, prompt, output, n, priority):
        self.arrivals += 1
        leader, *followers = (
            sequence(self.arrivals, prompt, priority, candidate) for candidate in range(n)
        )
        leader.followers = followers
        for one in (leader, *followers):
            self.lengths[one] = prompt + output
        self.scheduler.add(leader)

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def cancel(self, data):
        one = data.draw(st.sampled_from(list(self.lengths)))
        del self.lengths[one]
        self.scheduler.remove(one)

    @rule()
    def step(self):
        first = min(self.running(), key=lambda s: s.order, default=None)
        before = first and (first.computed, first.known)
        decoding = {one for one in self.running() if one.pending == 1}
        plan = self.scheduler.plan()
        assert plan.tokens <= self.BUDGET
        decoding -= set(plan.preempted)
        assert {chunk.sequence for chunk in plan.chunks[: len(decoding)]} == decoding
        for chunk in plan.chunks:
            for drawn in chunk.draws:
                drawn.known += 1
                if drawn.known == self.lengths[drawn]:
                    del self.lengths[drawn]
                    self.scheduler.remove(drawn)
        if first is not None and first in self.lengths:
            assert (first.computed, first.known) > before, "the first running did not advance"

    def running(self):
        return [s for s in self.lengths if s.row >= 0]

    @invariant()
    def every_slot_has_its_holder(self):
        table = self.scheduler.slot_table
        held: dict[int, list[tuple[int, int]]] = {}
        for one in self.running():
            for position, slot in enumerate(table[one.row, : one.computed].tolist()):
                held.setdefault(slot, []).append((one.order[1], position))
        assert self.pool.used_slots == len(held)
        for holders in held.values():
            assert len(set(holders)) == 1, "a slot is shared across requests or positions"

    @invariant()
    def rows_are_distinct(self):
        rows = [one.row for one in self.running()]
        assert len(rows) == len(set(rows))
        assert self.scheduler.running == len(rows)
        assert self.scheduler.running + self.scheduler.waiting == len(self.lengths)

    def teardown(self):
        for _ in range(3000):
            if not self.lengths:
                break
            self.step()
        assert not self.lengths, "a sequence starved"
        assert self.pool.used_slots == 0


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
