"""An engine driven step by step, and what it reports; its model may be one of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chassis.policies.policy import Policy
from chassis.policies.registry import DEFAULT_POLICY, POLICIES
from model_svc.engine.loop import Engine
from model_svc.engine.messages import Load, Report
from model_svc.engine.request import NO_ALTERNATIVES, EarlierOutput, RequestSpec
from model_svc.sampling.params import SamplingParams
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.slot_pool import SlotPool
from model_svc.scheduling.step import Chunks, Kind, Scores, StepInput, StepOutput
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


@dataclass
class FakeRow:
    """State of a row: tokens known, how many are the prompt's, and whose candidate it is."""

    tokens: list[int]
    prompt: int
    candidate: int


class Arithmetic:
    """A runner whose KV cache holds token ids, so that a wrong slot gives a wrong token."""

    depth = 0

    def __init__(self, slots: int, rows: int, context: int) -> None:
        self.cache = np.full(slots, -1)
        self.table = np.full((rows, context), -1)
        self.rows: list[FakeRow] = [FakeRow([], 0, 0) for _ in range(rows)]
        self.steps = 0
        self.tokens = 0

    def launch(self, step: StepInput) -> object:
        return self.compute(step)

    def collect(self, ticket: Any) -> StepOutput:
        return ticket

    def compute(self, step: StepInput) -> StepOutput:
        self.steps += 1
        self.tokens += len(step.chunks.slots)
        for one in step.admissions:
            tokens = [*one.prompt.tolist(), *one.output.tolist()]
            self.rows[one.row] = FakeRow(tokens, len(one.prompt), one.candidate)
            self.table[one.row, : len(one.shared_slots)] = one.shared_slots
        chunks = step.chunks
        draws: dict[int, list[int]] = {}
        for chunk, row in zip(chunks.draw_chunks.tolist(), chunks.draw_rows.tolist(), strict=True):
            draws.setdefault(chunk, []).append(row)
        drawn: dict[int, list[int]] = {}
        slots, drafts = chunks.slots.tolist(), chunks.drafts.tolist()
        described = zip(
            chunks.kinds, chunks.rows.tolist(), chunks.starts, chunks.counts, strict=True
        )
        for number, (kind, row, start, count) in enumerate(described):
            tokens = self.rows[row].tokens[start : start + count]
            if kind == Kind.VERIFY:
                tokens = [*tokens, *drafts[: count - 1]]
                del drafts[: count - 1]
            assert len(tokens) == count, "a token is computed before it is known"
            own, slots = slots[:count], slots[count:]
            self.table[row, start : start + count] = own
            self.cache[own] = tokens
            for drawing in draws.get(number, ()):
                drawn[drawing] = self.draw(drawing, tokens[1:] if kind == Kind.VERIFY else [])
        each = [drawn[row] for row in chunks.draw_rows.tolist()]
        flat = [token for own in each for token in own]
        return StepOutput(
            np.array(flat, np.int32),
            np.full(len(flat), np.nan, np.float32),
            (),
            np.array([len(own) for own in each]) if len(chunks.drafts) else None,
            tuple(self.score(chunks, number) for number in step.scored.tolist()),
        )

    def draw(self, row: int, draft: list[int]) -> list[int]:
        """The tokens after those known, as long as they are the proposed ones, and one more."""
        own, drawn = self.rows[row], []
        for proposed in [*draft, None]:
            seen = self.cache[self.table[row, : len(own.tokens)]].tolist()
            drawn.append(next_token(seen, own.candidate))
            own.tokens.append(drawn[-1])
            if drawn[-1] != proposed:
                break
        return drawn

    def score(self, chunks: Chunks, number: int) -> Scores:
        start, prompt = int(chunks.starts[number]), self.rows[chunks.rows[number]].prompt
        last = min(start + int(chunks.counts[number]), prompt - 1)
        logprobs = [-float(position) for position in range(start + 1, last + 1)]
        return Scores(np.array(logprobs, np.float32), (NO_ALTERNATIVES,) * len(logprobs))


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
        runner: Callable[[int, int, int], Any] = Arithmetic,
        policy: Policy = POLICIES[DEFAULT_POLICY],
    ) -> None:
        self.pool = SlotPool(slots)
        self.scheduler = Scheduler(
            self.pool, rows=rows, context=512, max_batch_tokens=budget, policy=policy
        )
        self.meter = Meter()
        self.runner = runner(slots, rows, 512)
        self.reports: list[Report] = []
        self.engine = Engine(
            self.runner, self.scheduler, self.pool, self.reports.append, self.meter
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
