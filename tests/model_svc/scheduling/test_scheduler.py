"""What runs in a step, and what must wait."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.policies.policy import Claim
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.sequence import NO_LIMIT, Prefix, Sequence
from model_svc.scheduling.slot_pool import SlotPool


def scheduler(slots=64, rows=4, context=64, max_batch_tokens=8):
    return Scheduler(SlotPool(slots), rows=rows, context=context, max_batch_tokens=max_batch_tokens)


def sequence(arrival, known, priority=0):
    return Sequence(Claim(priority, arrival, 0, known), known, Prefix(known))


def candidates(arrival, prompt, outputs, priority=0, limit=NO_LIMIT):
    """Candidates of one request that have so many output tokens."""
    prefix = Prefix(prompt)
    return [
        Sequence(Claim(priority, arrival, index, prompt), prompt + output, prefix, limit=limit)
        for index, output in enumerate(outputs)
    ]


def described(plan):
    """(sequence, start, count, sequences that draw) of each chunk."""
    chunks = plan.chunks
    draws = list(zip(chunks.draw_chunks.tolist(), plan.drawing, strict=True))
    each = zip(plan.sequences, chunks.starts.tolist(), chunks.counts.tolist(), strict=True)
    return [
        (sequence, start, count, [one for chunk, one in draws if chunk == number])
        for number, (sequence, start, count) in enumerate(each)
    ]


def chunks(plan):
    """(candidate, start, count, candidates that draw) of each chunk."""
    return [
        (one.claim.candidate, start, count, [other.claim.candidate for other in draws])
        for one, start, count, draws in described(plan)
    ]


def arrivals(plan):
    return [one.claim.arrival for one in plan.sequences]


def step(scheduler):
    """Plan and settle, as the engine does at depth 0."""
    plan = scheduler.plan()
    scheduler.settle(plan)
    return plan


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks():
    s = scheduler(max_batch_tokens=8)
    s.add(sequence(0, known=20))

    plans = [step(s) for _ in range(3)]

    assert [plan.tokens for plan in plans] == [8, 8, 4]
    assert [len(plan.drawing) for plan in plans] == [0, 0, 1]


def test_decodes_go_first_and_prompts_get_what_is_left():
    s = scheduler(max_batch_tokens=8)
    s.add(sequence(0, known=3))
    step(s)
    s.add(sequence(1, known=30))

    plan = step(s)

    assert list(zip(arrivals(plan), plan.chunks.counts.tolist(), strict=True)) == [(0, 1), (1, 7)]


def test_a_small_sequence_never_overtakes_a_large_one():
    s = scheduler(slots=32, max_batch_tokens=64)
    s.add(sequence(0, known=20))
    step(s)
    s.add(sequence(1, known=20))
    s.add(sequence(2, known=2))

    assert arrivals(step(s)) == [0]
    assert s.waiting == 2


def test_a_lower_priority_number_runs_first():
    s = scheduler(rows=1)
    late, urgent = sequence(0, known=2), sequence(1, known=2, priority=-1)
    s.add(late)
    s.add(urgent)

    assert step(s).sequences == [urgent]


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
    assert [one[:3] for one in described(step(s))] == [(young, 0, known)]


def with_pool(slots=64, rows=4, max_batch_tokens=64, members=()):
    pool = SlotPool(slots)
    s = Scheduler(pool, rows=rows, context=64, max_batch_tokens=max_batch_tokens)
    for one in members:
        s.add(one)
    return s, pool


def test_new_candidates_share_the_slots_of_their_prompt_and_draw_from_the_same_logits():
    s, pool = with_pool(members=candidates(0, 10, [0, 0, 0]))
    assert s.waiting == 3

    assert chunks(step(s)) == [(0, 0, 10, [0, 1, 2])]
    assert pool.used_slots == 10
    step(s)
    assert pool.used_slots == 13


def test_resumed_candidates_share_the_slots_of_their_prompt():
    s, pool = with_pool(members=candidates(0, 10, [3, 5, 5, 1]))

    assert chunks(step(s)) == [
        (0, 0, 13, [0]),
        (1, 10, 5, [1]),
        (2, 10, 5, [2]),
        (3, 10, 1, [3]),
    ]
    assert pool.used_slots == 10 + 3 + 5 + 5 + 1


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([0, 2, 0], [(0, 0, 10, [0]), (1, 10, 2, [1]), (2, 9, 1, [2])]),
        ([2, 0, 0], [(0, 0, 12, [0]), (1, 9, 1, [1, 2])]),
    ],
)
def test_a_candidate_without_output_beside_resumed_ones_computes_the_last_prompt_token_alone(
    outputs, expected
):
    s, _ = with_pool(members=candidates(0, 10, outputs))

    assert chunks(step(s)) == expected


def test_candidates_of_one_length_and_different_tokens_draw_apart():
    s, _ = with_pool(members=candidates(0, 4, [2, 2]))

    assert [draws for *_, draws in chunks(step(s))] == [[0], [1]]


def test_a_candidate_that_comes_to_a_row_late_shares_what_its_sibling_holds():
    first, second = candidates(0, 5, [0, 0])
    other = sequence(1, known=5)
    s, pool = with_pool(rows=2, members=[first, other])
    step(s)
    s.add(second)
    step(s)
    assert (s.running, s.waiting) == (2, 1)
    s.remove(other)

    assert chunks(step(s)) == [(0, 6, 1, [0]), (1, 4, 1, [1])]
    assert pool.used_slots == 7 + 1


def test_a_candidate_that_was_put_back_shares_the_prompt_again():
    early = sequence(0, known=4)
    first, second = candidates(1, 16, [0, 0])
    s, pool = with_pool(slots=30, members=[early, first, second])
    preempted = []
    while not preempted:
        preempted = step(s).preempted
    assert preempted == [second]
    s.remove(early)
    outputs = second.known - 16

    assert chunks(step(s))[1:] == [(1, 16, outputs, [1])]
    assert pool.used_slots == first.computed + second.computed - 16


def test_the_first_to_go_leaves_the_prompt_to_its_siblings():
    first, second, third = candidates(0, 10, [0, 0, 0])
    s, pool = with_pool(max_batch_tokens=4, members=[first, second, third])
    step(s)
    s.remove(first)
    assert pool.used_slots == 0

    plans = [chunks(step(s)) for _ in range(3)]

    assert plans == [[(1, 0, 4, [])], [(1, 4, 4, [])], [(1, 8, 2, [1, 2])]]


def test_a_budget_smaller_than_the_rows_is_refused():
    with pytest.raises(ValueError, match="4 tokens a step cannot serve 8 decodes"):
        scheduler(rows=8, max_batch_tokens=4)


class Run(RuleBasedStateMachine):
    """Any arrivals and cancellations; every sequence has its length and ends when it reaches it."""

    SLOTS, ROWS, CONTEXT, BUDGET = 40, 4, 32, 6
    DEPTH = 0

    def __init__(self):
        super().__init__()
        self.pool = SlotPool(self.SLOTS)
        self.scheduler = Scheduler(
            self.pool, rows=self.ROWS, context=self.CONTEXT, max_batch_tokens=self.BUDGET
        )
        self.lengths: dict[Sequence, int] = {}
        self.flights = []
        self.arrivals = 0

    @rule(
        prompt=st.integers(1, 20),
        output=st.integers(1, 12),
        earlier=st.lists(st.integers(0, 11), min_size=1, max_size=3),
        priority=st.integers(-1, 1),
    )
    def arrive(self, prompt, output, earlier, priority):
        self.arrivals += 1
        earlier = [min(count, output - 1) for count in earlier]
        for one in candidates(self.arrivals, prompt, earlier, priority, prompt + output):
            self.lengths[one] = prompt + output
            self.scheduler.add(one)

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def cancel(self, data):
        one = data.draw(st.sampled_from(list(self.lengths)))
        del self.lengths[one]
        self.scheduler.remove(one)

    @rule()
    def step(self):
        able = [one for one in self.running() if one.known < self.lengths[one]]
        first = min(able, key=lambda s: s.step_rank, default=None)
        before = first and (first.computed, first.known)
        decoding = {one for one in able if one.pending == 1}
        running = set(self.running())
        promised = {one for one in self.lengths if one.promised}
        plan = self.scheduler.plan()
        assert plan.tokens <= self.BUDGET
        stayed = running - set(plan.preempted)
        decoding &= stayed
        assert set(plan.sequences[: len(decoding)]) == decoding
        started = {one for one in self.running() if one not in stayed}
        assert not started & promised, "one was admitted before its tokens were known"
        ranks = [one.admission_rank for one in started]
        waiting = [one.admission_rank for one in self.lengths if one.row < 0]
        assert not (ranks and waiting) or max(ranks) < min(waiting), "one was overtaken"
        if first is not None and first == min(running, key=lambda s: s.step_rank):
            assert (first.computed, first.known) > before, "the first running did not advance"
        self.flights.append(plan)
        while len(self.flights) > (self.DEPTH if plan.sequences else 0):
            self.settle(self.flights.pop(0))

    def settle(self, plan):
        self.scheduler.settle(plan)
        for drawn in plan.drawing:
            if self.lengths.get(drawn) == drawn.known - drawn.promised:
                del self.lengths[drawn]
                self.scheduler.remove(drawn)

    def running(self):
        return [s for s in self.lengths if s.row >= 0]

    @invariant()
    def every_slot_has_its_holder(self):
        table = self.scheduler.slot_table
        held: dict[int, list[tuple[int, int]]] = {}
        for one in self.running():
            for position, slot in enumerate(table[one.row, : one.computed].tolist()):
                held.setdefault(slot, []).append((one.claim.arrival, position))
        assert self.pool.used_slots == len(held)
        for holders in held.values():
            assert len(set(holders)) == 1, "a slot is shared across requests or positions"

    @invariant()
    def running_candidates_share_the_slots_of_their_prompt(self):
        table = self.scheduler.slot_table
        holders: dict[Prefix, Sequence] = {}
        for one in sorted(self.running(), key=lambda s: -s.computed):
            holder = holders.setdefault(one.prefix, one)
            shared = one.prefix.tokens - 1  # the last may be computed again, to draw after it
            assert one is holder or one.computed >= shared, "a prompt is computed twice"
            assert (table[one.row, :shared] == table[holder.row, :shared]).all()

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


class OneAhead(Run):
    """The same with a step in flight while the next is planned."""

    DEPTH = 1


class TwoAhead(Run):
    """The same with two."""

    DEPTH = 2


TestRun = Run.TestCase
TestOneAhead = OneAhead.TestCase
TestTwoAhead = TwoAhead.TestCase
for machine in (TestRun, TestOneAhead, TestTwoAhead):
    machine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
