"""The step loop with a model of arithmetic: what comes out never depends on what else ran."""

import queue
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_svc.commands import Forget, ForgetRouter, Quit, Resend, Start, Stop
from model_svc.engine import Engine
from model_svc.request import NO_ALTERNATIVES, EarlierOutput, OutputRow, RequestSpec
from model_svc.runner import StepResult
from model_svc.sampling import Drawn, SamplingSpec
from model_svc.scheduler import Scheduler
from model_svc.slot_pool import SlotPool
from protos.token_frame import LENGTH, NO_TOKEN, PROMPT, STOP

VOCAB = 1000
EOS = 7


def next_token(tokens, candidate):
    """What the model of arithmetic says after `tokens`."""
    return (sum(tokens) * 31 + len(tokens) * 17 + candidate * 101) % VOCAB


class Arithmetic:
    """A runner whose KV cache holds token ids, so that a wrong slot gives a wrong token."""

    def __init__(self, slots, slot_table):
        self.cache = np.full(slots, -1)
        self.table = slot_table
        self.steps = 0

    def run(self, plan, candidates):
        self.steps += 1
        drawn_for, prompt_rows = [], []
        for chunk in plan.chunks:
            owner = candidates[chunk.sequence]
            tokens = owner.tokens(chunk.start, chunk.count)
            slots = self.table[chunk.sequence.row, chunk.start : chunk.start + chunk.count]
            self.cache[slots] = tokens
            if owner.request.spec.max_tokens:
                drawn_for += [candidates[s] for s in chunk.draws]
            if owner.request.wants_scores_from(chunk.start):
                prompt_rows.append((owner, self.score(owner, chunk)))
        if not drawn_for:
            return StepResult([], None, prompt_rows)
        tokens = np.array([self.draw(one) for one in drawn_for], dtype=np.int32)
        logprobs = np.full(len(tokens), np.nan, dtype=np.float32)
        nothing = tuple(NO_ALTERNATIVES for _ in drawn_for)
        return StepResult(drawn_for, Drawn(tokens, logprobs, nothing), prompt_rows)

    def draw(self, candidate):
        row, known = candidate.sequence.row, candidate.sequence.known
        return next_token(self.cache[self.table[row, :known]].tolist(), candidate.index)

    def score(self, owner, chunk):
        prompt = owner.request.spec.prompt.tolist()
        first = [OutputRow(0, prompt[0], 0.0, PROMPT, NO_ALTERNATIVES)] if not chunk.start else []
        last = min(chunk.start + chunk.count, len(prompt) - 1)
        return first + [
            OutputRow(i, prompt[i], -float(i), PROMPT, NO_ALTERNATIVES)
            for i in range(chunk.start + 1, last + 1)
        ]


class Meter:
    def __init__(self):
        self.preempted = 0

    def step(self, seconds, decodes, prompt_tokens, preempted):
        self.preempted += preempted

    def load(self, running, waiting, used_slots):
        self.used_slots = used_slots


class Harness:
    """An engine on its own thread, and what it reported."""

    def __init__(self, slots=4096, rows=8, budget=16):
        self.reports = queue.SimpleQueue()
        self.pool = SlotPool(slots)
        scheduler = Scheduler(self.pool, rows=rows, context=512, max_batch_tokens=budget)
        self.meter = Meter()
        runner = Arithmetic(slots, scheduler.slot_table)
        self.engine = Engine(
            runner, scheduler, self.pool, self.reports.put, self.meter, vocab_size=VOCAB
        )
        self.thread = threading.Thread(target=self.engine.run)
        self.rows = []
        self.loads = []

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.engine.post(Quit())
        self.thread.join(10)
        assert not self.thread.is_alive()

    def take(self):
        report = self.reports.get(timeout=10)
        if report.frame is not None:
            self.rows += report.frame.rows.tolist()
        if report.load is not None:
            self.loads.append(report.load)
        return report

    def until(self, condition):
        while not condition():
            self.take()

    def finished(self, handle):
        return {row[5] for row in self.rows if row[0] == handle and row[6] & (STOP | LENGTH)}

    def ids(self, handle, candidate=0):
        return [
            row[3]
            for row in self.rows
            if (row[0], row[5]) == (handle, candidate) and not row[6] & (PROMPT | NO_TOKEN)
        ]

    def idle(self):
        self.until(lambda: self.loads and not self.loads[-1].running + self.loads[-1].waiting)


def spec(handle, prompt, max_tokens=8, **changes):
    values = {
        "handle": handle,
        "attempt": 1,
        "request_id": f"r{handle}",
        "prompt": np.array(prompt, dtype=np.int32),
        "sampling": SamplingSpec(seed=1),
        "candidates": 1,
        "max_tokens": max_tokens,
        "stop_ids": frozenset(),
        "prompt_logprobs": False,
        "priority": 0,
    }
    return RequestSpec(**(values | changes))


def expected(prompt, count, candidate=0):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, candidate))
    return tokens[len(prompt) :]


def test_a_request_gives_its_tokens_then_its_end():
    with Harness() as h:
        h.engine.post(Start(spec(1, range(40), max_tokens=5)))
        h.until(lambda: h.finished(1))

    assert h.ids(1) == expected(range(40), 5)
    assert [row[2] for row in h.rows] == [0, 1, 2, 3, 4]
    assert [row[6] for row in h.rows] == [0, 0, 0, 0, LENGTH]


def test_candidates_share_the_prompt_and_draw_apart():
    with Harness() as h:
        h.engine.post(Start(spec(1, [5, 6, 7], max_tokens=6, candidates=4)))
        h.until(lambda: len(h.finished(1)) == 4)
        h.idle()

    for candidate in range(4):
        assert h.ids(1, candidate) == expected([5, 6, 7], 6, candidate)
    assert h.pool.used_slots == 0


def test_a_stop_id_ends_a_candidate_but_not_before_min_tokens():
    prompt = [3, 4]
    stop = expected(prompt, 3)[2]
    with Harness() as h:
        h.engine.post(Start(spec(1, prompt, stop_ids=frozenset({stop}))))
        late = spec(
            2, prompt, stop_ids=frozenset({stop}), sampling=SamplingSpec(seed=1, min_tokens=3)
        )
        h.engine.post(Start(late))
        h.until(lambda: h.finished(1) and h.finished(2))

    assert h.ids(1) == expected(prompt, 3)
    assert len(h.ids(2)) > 3


def test_scoring_a_prompt_tells_each_of_its_tokens_once_and_draws_none():
    with Harness(budget=8) as h:
        h.engine.post(Start(spec(1, range(20), max_tokens=0, prompt_logprobs=True)))
        h.until(lambda: h.finished(1))

    scored = [(row[2], row[3]) for row in h.rows if row[6] & PROMPT]
    assert scored == [(i, i) for i in range(20)]
    assert h.ids(1) == []


def test_nothing_to_draw_and_nothing_to_score_ends_at_once():
    with Harness() as h:
        h.engine.post(Start(spec(1, [1, 2], max_tokens=0, candidates=2)))
        h.until(lambda: len(h.finished(1)) == 2)

    assert [row[6] for row in h.rows] == [LENGTH | NO_TOKEN] * 2


def test_a_resumed_candidate_goes_on_where_it_was():
    whole = expected([9, 9], 8)
    progress = {0: EarlierOutput(np.array(whole[:3], np.int32), finished=False)}
    with Harness() as h:
        h.engine.post(Start(spec(1, [9, 9], attempt=2, progress=progress)))
        h.until(lambda: h.finished(1))

    assert h.ids(1) == whole[3:]
    assert {row[1] for row in h.rows} == {2}


def test_a_candidate_finished_earlier_runs_no_more():
    progress = {0: EarlierOutput(np.array([1], np.int32), finished=True)}
    with Harness() as h:
        h.engine.post(Start(spec(1, [9], candidates=2, progress=progress)))
        h.until(lambda: h.finished(1))
        h.idle()

    assert {row[5] for row in h.rows} == {1}


def test_rows_are_sent_again_to_the_outlet_that_asks_and_for_the_right_attempt_only():
    with Harness() as h:
        h.engine.post(Start(spec(1, [5], max_tokens=6, prompt_logprobs=True)))
        h.until(lambda: h.finished(1))
        h.idle()
        h.engine.post(Resend(1, attempt=9, candidate=0, position=0, prompt_position=0, target=3))
        h.engine.post(Resend(1, attempt=1, candidate=0, position=4, prompt_position=1, target=3))
        while (report := h.take()).target is None:
            pass

    assert report.target == 3
    assert report.frame.rows["position"].tolist() == [4, 5]


def test_rows_of_a_resumed_candidate_are_found_by_their_position():
    earlier = EarlierOutput(np.array(expected([5], 3), np.int32), finished=False)
    with Harness() as h:
        h.engine.post(Start(spec(1, [5], max_tokens=8, progress={0: earlier})))
        h.until(lambda: h.finished(1))
        h.engine.post(Resend(1, attempt=1, candidate=0, position=5, prompt_position=0, target=3))
        while (report := h.take()).target is None:
            pass

    assert report.frame.rows["position"].tolist() == [5, 6, 7]


def test_a_prompt_computed_by_two_resumed_candidates_is_told_once():
    progress = {
        i: EarlierOutput(np.array(expected([4, 5, 6], 1, i), np.int32), False) for i in (0, 1)
    }
    with Harness() as h:
        h.engine.post(
            Start(spec(1, [4, 5, 6], candidates=2, progress=progress, prompt_logprobs=True))
        )
        h.until(lambda: len(h.finished(1)) == 2)

    assert [row[2] for row in h.rows if row[6] & PROMPT] == [0, 1, 2]


def test_a_stopped_request_frees_its_slots_and_the_next_one_runs():
    with Harness() as h:
        h.engine.post(Start(spec(1, range(30), max_tokens=400)))
        h.until(lambda: h.ids(1))
        h.engine.post(Stop(1, None))
        h.idle()
        assert h.pool.used_slots == 0
        h.engine.post(Start(spec(2, [1])))
        h.until(lambda: h.finished(2))

    assert h.ids(2) == expected([1], 8)


def test_stopping_one_candidate_leaves_the_others():
    with Harness() as h:
        h.engine.post(Start(spec(1, [1, 2], max_tokens=50, candidates=2)))
        h.engine.post(Stop(1, 0))
        h.until(lambda: h.finished(1))

    assert h.ids(1, 1) == expected([1, 2], 50, 1)
    assert not h.ids(1, 0)


def test_a_router_that_leaves_takes_its_requests_with_it():
    mine, other = (5 << 32) | 1, (6 << 32) | 1
    with Harness() as h:
        h.engine.post(Start(spec(mine, [1], max_tokens=400)))
        h.engine.post(Start(spec(other, [1], max_tokens=20)))
        h.engine.post(ForgetRouter(5))
        h.until(lambda: h.finished(other))
        h.idle()

    assert not h.finished(mine)
    assert h.pool.used_slots == 0


def test_the_load_counts_the_starts_it_includes():
    with Harness() as h:
        for i in range(3):
            h.engine.post(Start(spec((5 << 32) | i, [1])))
        h.idle()
        h.until(lambda: h.loads[-1].starts.get(5) == 3)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_pool_too_small_for_all_changes_no_token(data):
    requests = data.draw(
        st.lists(
            st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 3)),
            min_size=2,
            max_size=12,
        )
    )
    with Harness(slots=64, rows=6, budget=12) as h:
        for handle, (length, max_tokens, n) in enumerate(requests):
            prompt = [(handle * 13 + i) % VOCAB for i in range(length)]
            h.engine.post(Start(spec(handle, prompt, max_tokens=max_tokens, candidates=n)))
        h.until(lambda: all(len(h.finished(i)) == n for i, (_, _, n) in enumerate(requests)))
        h.idle()
        for handle in range(len(requests)):
            h.engine.post(Forget(handle))

    for handle, (length, max_tokens, n) in enumerate(requests):
        prompt = [(handle * 13 + i) % VOCAB for i in range(length)]
        for candidate in range(n):
            assert h.ids(handle, candidate) == expected(prompt, max_tokens, candidate)
    assert h.pool.used_slots == 0


def test_the_small_pool_of_the_test_above_does_put_sequences_back():
    with Harness(slots=64, rows=6, budget=12) as h:
        for handle in range(6):
            h.engine.post(Start(spec(handle, [handle] * 5, max_tokens=50)))
        h.until(lambda: all(h.finished(handle) for handle in range(6)))

    assert h.meter.preempted > 0


def test_driven_from_outside_it_runs_one_step_at_a_time_and_never_waits():
    h = Harness()
    assert not h.engine.advance()
    h.engine.post(Start(spec(1, [1], max_tokens=3)))

    assert [h.engine.advance() for _ in range(4)] == [True, True, True, False]
    h.until(lambda: h.finished(1))
    assert h.ids(1) == expected([1], 3)
    assert h.engine._runner.steps == 3


def test_driven_from_outside_it_takes_in_all_commands_before_a_step():
    h = Harness()
    h.engine.post(Start(spec(1, [1])))
    h.engine.post(Stop(1, None))
    h.engine.post(Start(spec(2, [2])))
    h.engine.post(Start(spec(3, [3])))

    assert h.engine.advance()
    h.take()
    assert [row[0] for row in h.rows] == [2, 3]


def test_told_to_quit_it_runs_no_further_step():
    h = Harness()
    h.engine.post(Start(spec(1, [1])))
    h.engine.post(Quit())

    assert not h.engine.advance()
    assert h.engine._runner.steps == 0


def test_a_failing_step_ends_the_loop_with_its_error():
    h = Harness()
    h.engine._runner.run = lambda plan, candidates: 1 / 0
    h.engine.post(Start(spec(1, [1])))

    with pytest.raises(ZeroDivisionError):
        h.engine.run()
