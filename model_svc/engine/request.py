"""A request inside the engine: what was asked, what each candidate has produced.

A candidate's rows (ids, log-probabilities) are kept until the request is released, so that they can
be sent again. Positions count from the request's first output token over all attempts; a resumed
candidate keeps the ids of earlier attempts but no rows for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_svc.sampling.params import SampleInput, SamplingParams, TokenHistory
from model_svc.scheduling import scheduler
from protos.token_frame import ALTERNATIVE, FINISHED, LENGTH, NO_TOKEN, STOP

NO_ALTERNATIVES: npt.NDArray[np.void] = np.empty(0, dtype=ALTERNATIVE)


class OutputRow(NamedTuple):
    """One row of a token frame, but for its handle, attempt and candidate."""

    position: int
    token: int
    logprob: float
    flags: int
    alternatives: npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """What was asked.

    Attributes:
        handle: who it is.
        attempt: which attempt at it.
        request_id: for the logs.
        prompt: [prompt] int32.
        sampling: how tokens are drawn.
        candidates: how many continuations.
        max_tokens: output tokens at most; 0 scores the prompt only.
        stop_ids: ids that end a candidate.
        prompt_logprobs: whether the prompt is scored.
        priority: lower runs first.
        progress: candidate → what it had produced in earlier attempts.
    """

    handle: int
    attempt: int
    request_id: str
    prompt: npt.NDArray[np.int32]
    sampling: SamplingParams
    candidates: int
    max_tokens: int
    stop_ids: frozenset[int]
    prompt_logprobs: bool
    priority: int
    progress: Mapping[int, EarlierOutput] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EarlierOutput:
    """What a candidate produced before this attempt."""

    ids: npt.NDArray[np.int32]
    finished: bool


class Candidate:
    """One continuation of a request."""

    def __init__(self, request: Request, index: int, arrival: int) -> None:
        spec = request.spec
        earlier = spec.progress.get(index)
        self.request = request
        self.index = index
        self._sampling = spec.sampling
        self.output: list[int] = [] if earlier is None else earlier.ids.tolist()
        self.finished = earlier is not None and earlier.finished
        self.rows: list[OutputRow] = []
        self.sequence = scheduler.Sequence(
            order=(spec.priority, arrival, index),
            known=len(spec.prompt) + len(self.output),
            prefix=request.prefix,
        )
        self.ending = self._find_ending()
        """The flag that its output ends with as it is, or 0 where it may go on."""
        self._history: TokenHistory | None = None
        if spec.sampling.needs_history:
            output = np.asarray(self.output, dtype=np.int32)
            self._history = TokenHistory(request.vocab_size, spec.prompt, output)

    def _find_ending(self) -> int:
        spec = self.request.spec
        count = len(self.output)
        if count > spec.sampling.min_tokens and self.output[-1] in spec.stop_ids:
            return STOP
        return LENGTH if count >= spec.max_tokens else 0

    @property
    def may_draw(self) -> bool:
        """Whether it is to have another token."""
        return not (self.finished or self.ending)

    @property
    def draw(self) -> SampleInput:
        """The next token to draw."""
        drawn = SampleInput(self._sampling, len(self.output), self.index, self._history)
        bad = self._sampling.bad_endings
        if bad is None:
            return drawn
        return drawn._replace(banned=bad.after(self.sequence.known, self.tokens))

    def token(self, position: int) -> int:
        """Its prompt or output id at `position`."""
        after_prompt = position - len(self.request.spec.prompt)
        if after_prompt < 0:
            return int(self.request.spec.prompt[position])
        return self.output[after_prompt]

    def tokens(self, start: int, count: int) -> npt.NDArray[np.int32]:
        """Its prompt and output ids from position `start` on, [count]."""
        prompt = self.request.spec.prompt
        end = start + count
        if end <= len(prompt):
            return prompt[start:end]
        tail = self.output[max(start - len(prompt), 0) : end - len(prompt)]
        if start >= len(prompt):
            return np.asarray(tail, dtype=np.int32)
        return np.concatenate([prompt[start:], np.asarray(tail, dtype=np.int32)])

    def append(self, token: int, logprob: float, alternatives: npt.NDArray[np.void]) -> OutputRow:
        """Take a drawn token; decide whether it is the last."""
        position = len(self.output)
        self.output.append(token)
        self.sequence.known += 1
        if self._history is not None:
            self._history.append(token)
        self.ending = ending = self._find_ending()
        return self._keep(OutputRow(position, token, logprob, ending, alternatives))

    def end_without_token(self) -> OutputRow:
        """End it where no token may be drawn."""
        return self._keep(self._ending_row(len(self.output), self.ending))

    def _ending_row(self, position: int, flag: int) -> OutputRow:
        token = self.output[-1] if flag == STOP else 0
        return OutputRow(position, token, float("nan"), flag | NO_TOKEN, NO_ALTERNATIVES)

    def _keep(self, row: OutputRow) -> OutputRow:
        self.rows.append(row)
        if row.flags & FINISHED:
            self.finished = True
        return row

    def rows_from(self, position: int) -> Sequence[OutputRow]:
        """The rows of this attempt from output position `position` on.

        Whoever has them all and asks nevertheless is told the ending again, for want of which it
        must be asking.
        """
        if not self.rows:
            return ()
        last = self.rows[-1]
        if position > last.position and last.flags & FINISHED:
            return (self._ending_row(position, last.flags & FINISHED),)
        return self.rows[max(position - self.rows[0].position, 0) :]


class Request:
    """A request the engine knows."""

    def __init__(self, spec: RequestSpec, *, arrival: int, vocab_size: int) -> None:
        self.spec = spec
        self.vocab_size = vocab_size
        self.prefix = scheduler.Prefix(len(spec.prompt))
        self.prompt_rows: list[OutputRow] = []
        self.candidates = [Candidate(self, index, arrival) for index in range(spec.candidates)]

    def wants_scores_from(self, position: int) -> bool:
        """Whether prompt tokens after `position` are still to be scored."""
        if not self.spec.prompt_logprobs:
            return False
        last, scored = len(self.spec.prompt) - 1, len(self.prompt_rows)
        return scored <= last and position <= max(scored - 1, 0)

    def sequences(self) -> list[scheduler.Sequence]:
        """The sequences to schedule: of unfinished candidates, and of one if only scores lack."""
        open_ = [candidate for candidate in self.candidates if not candidate.finished]
        if not open_ and self.spec.prompt_logprobs:
            open_ = self.candidates[:1]
        return [candidate.sequence for candidate in open_]
