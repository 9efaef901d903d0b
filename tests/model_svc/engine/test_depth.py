"""Steps in flight change no token: frames of depth 0, 1 and 2 are equal, whatever is commanded."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.engine_harness import VOCAB, Harness, earlier, expected, spec
from support.lazy_device import Fault, LazyDevice

from model_svc.engine.messages import Forget, Start, Stop
from protos.token_frame import NO_TOKEN, PROMPT

SLOTS, ROWS, BUDGET = 48, 4, 10
Place = tuple[int, int]


class Life:
    """A model process of one depth, its deaths, and the tokens told in all its lives."""

    def __init__(self, depth: int, fault: Fault) -> None:
        self._make = partial(LazyDevice, depth=depth, fault=fault)
        self.tokens: dict[Place, list[int]] = {}
        self.ended: dict[Place, int] = {}
        self.scores: dict[int, list[float]] = {}
        self.attempts: dict[int, int] = {}
        self.harness = self._begin()

    def _begin(self) -> Harness:
        return Harness(SLOTS, ROWS, BUDGET, runner=self._make)

    def step(self) -> bool:
        ran = self.harness.step()
        for row in self.harness.rows:
            place = row[0], row[5]
            if row[1] < self.attempts[row[0]]:
                continue
            if row[6] & PROMPT:
                self._score(row[0], row[2], row[4])
                continue
            if not row[6] & NO_TOKEN:
                own = self.tokens.setdefault(place, [])
                assert row[2] == len(own), "a position was told twice, or left out"
                own.append(row[3])
            if row[6]:
                assert place not in self.ended, "an output ended twice"
                self.ended[place] = row[6]
        self.harness.reports.clear()
        return ran

    def _score(self, handle: int, position: int, logprob: float) -> None:
        own = self.scores.setdefault(handle, [])
        if position == len(own):  # others were told in an earlier life
            own.append(logprob)

    def propose(self, count: int, wrong: int) -> None:
        """Propose tokens of each running sequence; that of number `wrong` is none it will draw."""
        for sequence, candidate in self.harness.engine._candidates.items():
            if sequence.row >= 0 and sequence.draws:
                prompt = candidate.request.spec.prompt.tolist()
                begin = sequence.known - len(prompt)
                draft = expected(prompt, begin + count, candidate.index)[begin:]
                draft[wrong : wrong + 1] = [VOCAB] * len(draft[wrong : wrong + 1])
                self.harness.scheduler.propose(sequence, tuple(draft))

    def kill(self) -> None:
        """End the process where it is; steps in flight are lost."""
        self.harness = self._begin()

    def start(self, values: dict[str, Any], attempt: int) -> None:
        """Start a request, or go on with it; rows of earlier attempts are nobody's from now on."""
        self.attempts[values["handle"]] = attempt
        progress = {}
        for index in range(values["candidates"]):
            place = values["handle"], index
            ended = place in self.ended
            progress[index] = earlier(self.tokens.get(place, []), finished=ended)
        self.harness.do(Start(spec(**values, attempt=attempt, progress=progress)))


class Depths(RuleBasedStateMachine):
    """The same commands to engines of depth 0, 1 and 2."""

    fault: Fault = "none"

    def __init__(self) -> None:
        super().__init__()
        self.lives = [Life(depth, self.fault) for depth in range(3)]
        self.requests: dict[int, dict[str, Any]] = {}
        self.stopped: set[Place] = set()
        self.attempts: dict[int, int] = {}

    @rule(
        length=st.integers(1, 20),
        max_tokens=st.integers(0, 12),
        candidates=st.integers(1, 3),
        stop_after=st.integers(0, 8),
        scored=st.booleans(),
        priority=st.integers(-1, 1),
    )
    def start(
        self,
        length: int,
        max_tokens: int,
        candidates: int,
        stop_after: int,
        scored: bool,
        priority: int,
    ) -> None:
        handle = len(self.requests)
        prompt = [(handle * 13 + i) % 97 for i in range(length)]
        stops = frozenset(expected(prompt, stop_after)[-1:])
        self.requests[handle] = {
            "handle": handle,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "candidates": candidates,
            "stop_ids": stops,
            "prompt_logprobs": scored,
            "priority": priority,
        }
        self.attempts[handle] = 1
        for life in self.lives:
            life.start(self.requests[handle], 1)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for life in self.lives:
            for _ in range(steps):
                life.step()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.requests)))
        most = self.requests[handle]["candidates"]
        index = data.draw(st.one_of(st.none(), st.integers(0, most - 1)))
        self.stopped |= {(handle, i) for i in range(most) if index in (None, i)}
        for life in self.lives:
            life.harness.do(Stop(handle, index))

    @rule(count=st.integers(1, 4), wrong=st.integers(0, 4))
    def propose(self, count: int, wrong: int) -> None:
        """Propose the next tokens of all running sequences, but for one that is wrong."""
        for life in self.lives:
            life.propose(count, wrong)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.requests)))
        self.stopped |= {(handle, i) for i in range(self.requests[handle]["candidates"])}
        for life in self.lives:
            life.harness.do(Forget(handle))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.requests)))
        if not any(place[0] == handle for place in self.stopped):
            self._resume(handle)

    @rule()
    def kill(self) -> None:
        for life in self.lives:
            life.kill()
        for handle, values in self.requests.items():
            if any(place[0] == handle for place in self.stopped):
                self.stopped |= {(handle, i) for i in range(values["candidates"])}
            else:
                self._resume(handle)

    def _resume(self, handle: int) -> None:
        self.attempts[handle] += 1
        for life in self.lives:
            life.start(self.requests[handle], self.attempts[handle])

    def teardown(self) -> None:
        for life in self.lives:
            while life.step():
                pass
            for handle in self.requests:
                life.harness.do(Forget(handle))
            while life.step():
                pass
            assert life.harness.pool.used_slots == 0
        for handle, values in self.requests.items():
            for index in range(values["candidates"]):
                self._compare((handle, index), values)
        synchronous, *ahead = self.lives
        for life in ahead:
            for handle, scores in life.scores.items():
                known = synchronous.scores.get(handle, [])
                count = min(len(scores), len(known))
                assert scores[:count] == known[:count]

    def _compare(self, place: Place, values: dict[str, Any]) -> None:
        told = [life.tokens.get(place, []) for life in self.lives]
        endings = [life.ended.get(place) for life in self.lives]
        whole = expected(values["prompt"], values["max_tokens"], place[1])
        for tokens in told:
            assert tokens == whole[: len(tokens)]
        if place not in self.stopped:
            assert told[0] == told[1] == told[2]
            assert endings[0] is not None
            assert endings[0] == endings[1] == endings[2]


TestDepths = Depths.TestCase
TestDepths.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("fault", ["early read", "reused buffer", "moved address"])
def test_a_planted_fault_is_found(fault: Fault) -> None:
    class Faulty(Depths):
        pass

    Faulty.fault = fault
    quiet = settings(
        max_examples=200,
        deadline=None,
        print_blob=False,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[p for p in settings().phases if p.name in ("generate", "explicit")],
    )
    with pytest.raises((AssertionError, IndexError, ValueError)):
        run_state_machine_as_test(Faulty, settings=quiet)


def run_together(depth: int) -> Harness:
    """Requests that fill a small pool."""
    h = Harness(SLOTS, ROWS, BUDGET, runner=partial(LazyDevice, depth=depth, fault="none"))
    for handle in range(6):
        h.do(Start(spec(handle, [handle] * 5, 20)))
    h.idle()
    return h


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_sequences_are_preempted_while_tokens_are_promised_and_none_is_lost(depth: int) -> None:
    h = run_together(depth)

    assert h.meter.preempted > 0
    assert h.runner.most_queued == depth + 1
    for handle in range(6):
        assert h.ids(handle) == expected([handle] * 5, 20)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_length_known_ahead_costs_no_surplus_step(depth: int) -> None:
    h = Harness(runner=partial(LazyDevice, depth=depth, fault="none"))
    h.do(Start(spec(1, [1, 2], 5)))
    h.idle()

    assert h.runner._launched == 5


@pytest.mark.parametrize("depth", [1, 2])
def test_a_token_drawn_behind_a_stop_id_is_told_to_nobody(depth: int) -> None:
    whole = expected([3], 9)
    h = Harness(runner=partial(LazyDevice, depth=depth, fault="none"))
    h.do(Start(spec(1, [3], 9, stop_ids=frozenset({whole[3]}))))
    h.idle()

    assert h.ids(1) == whole[:4]
    assert h.runner._launched == 4 + depth
    assert h.pool.used_slots == 0
