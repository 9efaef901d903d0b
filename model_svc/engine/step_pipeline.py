"""Steps in flight: made of plans, launched, and collected into rows of a frame.

Invariant: steps are collected in the order of their launches; a row belongs to the candidate that
held it when its step was launched, and what comes for a finished candidate is dropped.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_svc.engine.frame_builder import FrameBuilder
from model_svc.engine.request import Candidate
from model_svc.engine.runner import Runner
from model_svc.sampling.row_index import RecordRows, index_of
from model_svc.scheduling.plan import Plan
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.sequence import Sequence
from model_svc.scheduling.step import Int64s, StepInput, StepOutput
from protos.token_frame import ROW

log = logging.getLogger(__name__)

_NO_CHUNKS = np.empty(0, np.int64)


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class DoneStep:
    """Counts of a collected step.

    Attributes:
        seconds: from its launch, or the end of the step before, to its end.
        decodes: tokens computed one at a time.
        prompt_tokens: other tokens computed.
        preempted: sequences preempted for it.
    """

    seconds: float
    decodes: int
    prompt_tokens: int
    preempted: int


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class _Flight:
    """A launched step.

    Attributes:
        plan: of the step.
        ticket: of the runner.
        begin: when it was launched.
        rows: [draws] of `ROW`: handle, attempt, candidate and position of each draw.
        owners: candidate of each draw.
        exhausted: candidates that were computed to their last token and draw none.
        scored: requests whose prompt is scored, and the positions of their chunks.
    """

    plan: Plan
    ticket: object
    begin: float
    rows: npt.NDArray[np.void]
    owners: list[Candidate]
    exhausted: list[Candidate]
    scored: list[tuple[Candidate, int]]


class StepPipeline:
    """Launched steps and what each row's next token is told as."""

    def __init__(
        self, runner: Runner, scheduler: Scheduler, candidates: Mapping[Sequence, Candidate]
    ) -> None:
        """Run plans of `scheduler` on `runner`; `candidates` are the owners of its sequences."""
        self.depth = runner.depth
        self._runner = runner
        self._scheduler = scheduler
        self._candidates = candidates
        rows = len(scheduler.slot_table)
        self._next_rows = RecordRows(rows, ROW)
        self._scoring: set[int] = set()
        self._flights: deque[_Flight] = deque()
        self._last_end = 0.0

    @property
    def in_flight(self) -> int:
        """Steps launched and not collected."""
        return len(self._flights)

    def launch(self) -> bool:
        """Plan a step and launch it; answer whether there was anything to compute."""
        begin = time.perf_counter()
        plan = self._scheduler.plan()
        self._log_preempted(plan)
        if not plan.sequences:
            return False
        admissions = []
        for started in plan.started:
            candidate, row = self._candidates[started.sequence], started.sequence.row
            admissions.append(candidate.admission(row, started.shared_slots))
            spec = candidate.request.spec
            own = (spec.handle, spec.attempt, len(candidate.output), 0, 0.0, candidate.index, 0, 0)
            self._next_rows.records[row] = own
            self._scoring.discard(row)
            if spec.prompt_logprobs:
                self._scoring.add(row)
        scored, owners = self._scored(plan)
        ticket = self._runner.launch(StepInput(tuple(admissions), plan.chunks, scored))
        rows, candidates = plan.chunks.draw_rows, self._candidates
        self._flights.append(
            _Flight(
                plan,
                ticket,
                begin,
                self._next_rows.copy(rows),
                [candidates[sequence] for sequence in plan.drawing],
                [candidates[sequence] for sequence in plan.exhausted],
                owners,
            )
        )
        self._next_rows.records["position"][index_of(rows)] += 1
        return True

    def collect(self, builder: FrameBuilder) -> DoneStep:
        """Wait for the oldest step; add its rows to `builder`, remove its finished sequences."""
        flight = self._flights.popleft()
        output = self._runner.collect(flight.ticket)
        plan = flight.plan
        self._scheduler.settle(plan, output.counts)
        for (owner, start), scores in zip(flight.scored, output.scores, strict=True):
            for row in owner.request.keep_scores(start, scores):
                builder.add(owner.request.candidates[0], row)
        for candidate in flight.exhausted:
            if not candidate.finished:
                builder.add(candidate, candidate.end_without_token())
            self._scheduler.remove(candidate.sequence)
        if output.counts is not None:
            flight = self._spread(flight, output.counts)
        if flight.owners:
            self._keep_tokens(flight, output, builder)
        end = time.perf_counter()
        seconds = end - max(flight.begin, self._last_end)
        self._last_end = end
        tokens, chunks = plan.tokens, len(plan.chunks.counts)
        decodes = chunks if tokens == chunks else int(np.count_nonzero(plan.chunks.counts == 1))
        return DoneStep(seconds, decodes, tokens - decodes, len(plan.preempted))

    def _scored(self, plan: Plan) -> tuple[Int64s, list[tuple[Candidate, int]]]:
        """The chunks to score, and their owners and starts."""
        chunks = plan.chunks
        numbers, owners = [], []
        if not self._scoring:
            return _NO_CHUNKS, []
        for number, row in enumerate(chunks.rows.tolist()):
            if row not in self._scoring:
                continue
            owner = self._candidates[plan.sequences[number]]
            start = int(chunks.starts[number])
            if owner.request.score_chunk(start, int(chunks.counts[number])):
                numbers.append(number)
                owners.append((owner, start))
        return np.array(numbers, np.int64), owners

    def _spread(self, flight: _Flight, counts: Int64s) -> _Flight:
        """The same with a row and an owner for each token of a draw."""
        rows = np.repeat(flight.rows, counts)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        rows["position"] += (np.arange(len(rows)) - firsts).astype(np.uint32)
        owners = []
        for owner, row, count in zip(
            flight.owners, flight.plan.chunks.draw_rows.tolist(), counts.tolist(), strict=True
        ):
            owners += [owner] * count
            if owner.sequence.row == row:
                self._next_rows.records["position"][row] += count - 1
        return _Flight(
            flight.plan, flight.ticket, flight.begin, rows, owners, flight.exhausted, flight.scored
        )

    def _keep_tokens(self, flight: _Flight, output: StepOutput, builder: FrameBuilder) -> None:
        rows, alternatives = flight.rows, output.alternatives
        rows["token"], rows["logprob"] = output.tokens, output.logprobs
        flags, dropped = [0] * len(rows), []
        for i, (owner, token) in enumerate(zip(flight.owners, output.tokens.tolist(), strict=True)):
            if owner.finished:
                dropped.append(i)
                continue
            if ending := owner.append(token):
                flags[i] = ending
                self._scheduler.remove(owner.sequence)
            if alternatives and owner.request.spec.sampling.logprobs is not None:
                owner.logprobs.append(float(output.logprobs[i]))
                owner.alternatives.append(alternatives[i])
        if any(flags):
            rows["flags"] = flags
        if alternatives:
            rows["alternatives"] = [len(own) for own in alternatives]
        if dropped:
            gone = set(dropped)
            rows = np.delete(rows, dropped)
            alternatives = tuple(own for i, own in enumerate(alternatives) if i not in gone)
        if len(rows):
            builder.add_block(rows, alternatives)

    def _log_preempted(self, plan: Plan) -> None:
        for sequence in plan.preempted:
            spec = self._candidates[sequence].request.spec
            log.debug(
                "request preempted: the KV cache is full", extra={"request_id": spec.request_id}
            )
