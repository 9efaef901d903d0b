"""An engine driven step by step, and what it reports; its model may be one of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model_svc.engine.loop import Engine, Runner
from model_svc.engine.messages import Load, Report
from model_svc.engine.request import (
    NO_ALTERNATIVES,
    Candidate,
    EarlierOutput,
    OutputRow,
    RequestSpec,
)
from model_svc.engine.runner import StepResult
from model_svc.sampling.cpu_sampler import Drawn
from model_svc.sampling.params import SamplingParams
from model_svc.scheduling.scheduler import Chunk, Plan, Scheduler
from model_svc.scheduling.scheduler import Sequence as Scheduled
from model_svc.scheduling.slot_pool import SlotPool
from protos.token_frame import FINISHED, NO_TOKEN, PROMPT

VOCAB = 1000

Row = tuple[int, int, int, int, float, int, int, int]


def next_token(tokens: Sequence[int], candidate: int) -> int:
    """What the model of arithmetic says after `tokens`."""
    return (sum(tokens) * 31 + len(tokens) * 17 + candidate * 101) % VOCAB


def expected(prompt: Sequence[int], count: int, candidate: int = 0) -> list[int]:
    """The first `count` tokens that the model of arithmetic says after `prompt`."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, candidate))
    return tokens[len(prompt) :]


def spec(handle: int, prompt: Sequence[int], max_tokens: int = 8, **changes: Any) -> RequestSpec:
    """A request for the model of arithmetic."""
    values: dict[str, Any] = {
        "handle": handle,
        "attempt": 1,
        "request_id": f"r{handle}",
        "prompt": np.array(prompt, dtype=np.int32),
        "sampling": SamplingParams(seed=1),
        "candidates": 1,
        "max_tokens": max_tokens,
        "stop_ids": frozenset(),
        "prompt_logprobs": False,
        "priority": 0,
    }
    return RequestSpec(**(values | changes))


def earlier(ids: Sequence[int], *, finished: bool = False) -> EarlierOutput:
    """What a candidate produced in earlier attempts."""
    return EarlierOutput(np.array(ids, np.int32), finished)


class Arithmetic:
    """A runner whose KV cache holds token ids, so that a wrong slot gives a wrong token."""

    def __init__(self, slots: int, slot_table: np.ndarray) -> None:
        self.cache = np.full(slots, -1)
        self.table = slot_table
        self.steps = 0
        self.tokens = 0

    def run(self, plan: Plan, candidates: Mapping[Scheduled, Candidate]) -> StepResult:
        self.steps += 1
        self.tokens += plan.tokens
        drawn_for: list[Candidate] = []
        prompt_rows = []
        for chunk in plan.chunks:
            owner = candidates[chunk.sequence]
            tokens = owner.tokens(chunk.start, chunk.count)
            slots = self.table[chunk.sequence.row, chunk.start : chunk.start + chunk.count]
            self.cache[slots] = tokens
            drawn_for += [one for s in chunk.draws if (one := candidates[s]).may_draw]
            if owner.request.wants_scores_from(chunk.start):
                prompt_rows.append((owner, self.score(owner, chunk)))
        if not drawn_for:
            return StepResult([], None, prompt_rows)
        tokens = np.array([self.draw(one) for one in drawn_for], dtype=np.int32)
        logprobs = np.full(len(tokens), np.nan, dtype=np.float32)
        nothing = tuple(NO_ALTERNATIVES for _ in drawn_for)
        return StepResult(drawn_for, Drawn(tokens, logprobs, nothing), prompt_rows)

    def draw(self, candidate: Candidate) -> int:
        row, known = candidate.sequence.row, candidate.sequence.known
        return next_token(self.cache[self.table[row, :known]].tolist(), candidate.index)

    def score(self, owner: Candidate, chunk: Chunk) -> list[OutputRow]:
        prompt = owner.request.spec.prompt.tolist()
        first = [OutputRow(0, prompt[0], 0.0, PROMPT, NO_ALTERNATIVES)] if not chunk.start else []
        last = min(chunk.start + chunk.count, len(prompt) - 1)
        return first + [
            OutputRow(i, prompt[i], -float(i), PROMPT, NO_ALTERNATIVES)
            for i in range(chunk.start + 1, last + 1)
        ]


class Meter:
    """Counts what the engine counts."""

    def __init__(self) -> None:
        self.preempted = 0
        self.used_slots = 0

    def step(self, seconds: float, decodes: int, prompt_tokens: int, preempted: int) -> None:
        self.preempted += preempted

    def load(self, running: int, waiting: int, used_slots: int) -> None:
        self.used_slots = used_slots


class Harness:
    """An engine that the test drives, and all rows and loads it has reported."""

    def __init__(
        self,
        slots: int = 4096,
        rows: int = 8,
        budget: int = 16,
        *,
        runner: Callable[[int, np.ndarray], Runner] = Arithmetic,
        vocab_size: int = VOCAB,
    ) -> None:
        self.pool = SlotPool(slots)
        scheduler = Scheduler(self.pool, rows=rows, context=512, max_batch_tokens=budget)
        self.meter = Meter()
        self.runner = runner(slots, scheduler.slot_table)
        self.reports: list[Report] = []
        self.engine = Engine(
            self.runner, scheduler, self.pool, self.reports.append, self.meter, vocab_size
        )
        self.most_slots = 0

    def do(self, *commands: Any) -> None:
        """Tell the engine something; it hears it in its next step."""
        for command in commands:
            self.engine.post(command)

    def step(self) -> bool:
        ran = self.engine.advance()
        self.most_slots = max(self.most_slots, self.pool.used_slots)
        return ran

    def until(self, condition: Callable[[], object]) -> None:
        """Run steps until `condition` holds."""
        while not condition():
            assert self.step() or condition(), "nothing runs any more, and it never will"

    def idle(self) -> None:
        """Run steps until nothing runs."""
        while self.step():
            pass

    @property
    def rows(self) -> list[Row]:
        frames = [report.frame for report in self.reports if report.frame is not None]
        return [row for frame in frames for row in frame.rows.tolist()]

    @property
    def loads(self) -> list[Load]:
        return [report.load for report in self.reports if report.load is not None]

    def finished(self, handle: int) -> set[int]:
        """The candidates of a request that have ended."""
        return {row[5] for row in self.rows if row[0] == handle and row[6] & FINISHED}

    def ids(self, handle: int, candidate: int = 0) -> list[int]:
        """The output of a candidate."""
        return [
            row[3]
            for row in self.rows
            if (row[0], row[5]) == (handle, candidate) and not row[6] & (PROMPT | NO_TOKEN)
        ]
