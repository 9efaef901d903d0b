"""A request inside the engine: what was asked, what each candidate has produced.

A candidate's rows (ids, log-probabilities) are kept until the request is released, so that they can
be sent again. Positions count from the request's first output token over all attempts; a resumed
candidate keeps the ids of earlier attempts but no rows for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chassis.policies.policy import Claim
from model_svc.sampling.params import SamplingParams
from model_svc.scheduling.sequence import NO_LIMIT, Prefix, Sequence
from model_svc.scheduling.step import Admission, Scores
from protos.token_frame import ALTERNATIVE, LENGTH, NO_TOKEN, PROMPT, STOP

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
    """Parameters of a request.

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
    """Output of a candidate before this attempt."""

    ids: npt.NDArray[np.int32]
    finished: bool


class Candidate:
    """One continuation of a request."""

    def __init__(self, request: Request, index: int, arrival: int) -> None:
        spec = request.spec
        earlier = spec.progress.get(index)
        self.request = request
        self.index = index
        self.output: list[int] = [] if earlier is None else earlier.ids.tolist()
        self.finished = earlier is not None and earlier.finished
        self.logprobs: list[float] = []
        """Of the tokens of this attempt; empty where the request wants none."""
        self.alternatives: list[npt.NDArray[np.void]] = []
        """The same."""
        self.ending = self._find_ending()
        """The flag that its output ends with as it is, or 0 where it may go on."""
        self._earlier = len(self.output)
        self._ended_without_token = False
        self._stop_ids = spec.stop_ids
        self._min_tokens = spec.sampling.min_tokens
        self._max_tokens = spec.max_tokens
        prompt_tokens = len(spec.prompt)
        draws = not (self.finished or self.ending)
        self.sequence = Sequence(
            Claim(spec.priority, arrival, index, prompt_tokens, spec.max_tokens),
            prompt_tokens + len(self.output),
            request.prefix,
            limit=prompt_tokens + spec.max_tokens if draws else NO_LIMIT,
            draws=draws,
            serial=spec.sampling.bad_endings is not None,
        )

    def _find_ending(self) -> int:
        spec = self.request.spec
        count = len(self.output)
        if count > spec.sampling.min_tokens and self.output[-1] in spec.stop_ids:
            return STOP
        return LENGTH if count >= spec.max_tokens else 0

    def admission(self, row: int, shared_slots: npt.NDArray[np.int32]) -> Admission:
        """The value that gives it `row`."""
        spec = self.request.spec
        output = np.array(self.output, np.int32)
        return Admission(
            row, spec.handle, spec.prompt, output, shared_slots, self.index, spec.sampling
        )

    def append(self, token: int) -> int:
        """Take a drawn token.

        Returns:
            The flag that it ends the output with, 0 where the output goes on.
        """
        output = self.output
        output.append(token)
        count = len(output)
        if token in self._stop_ids and count > self._min_tokens:
            self.ending = STOP
        elif count >= self._max_tokens:
            self.ending = LENGTH
        else:
            return 0
        self.finished = True
        return self.ending

    def end_without_token(self) -> OutputRow:
        """End it where no token may be drawn."""
        self.finished = self._ended_without_token = True
        return self._ending_row(len(self.output), self.ending)

    def _ending_row(self, position: int, flag: int) -> OutputRow:
        token = self.output[-1] if flag == STOP else 0
        return OutputRow(position, token, float("nan"), flag | NO_TOKEN, NO_ALTERNATIVES)

    def rows_from(self, position: int) -> list[OutputRow]:
        """The rows of this attempt from output position `position` on.

        If all rows were received, the ending is sent again: the caller must have missed it.
        """
        count = len(self.output)
        rows = [self._row(place) for place in range(max(position, self._earlier), count)]
        over = self.ending and (count > self._earlier or self._ended_without_token)
        if not rows and over and (position >= count or self._ended_without_token):
            return [self._ending_row(max(position, count), self.ending)]
        return rows

    def _row(self, position: int) -> OutputRow:
        flag = self.ending if position == len(self.output) - 1 else 0
        place = position - self._earlier
        if not self.logprobs:
            return OutputRow(position, self.output[position], math.nan, flag, NO_ALTERNATIVES)
        return OutputRow(
            position, self.output[position], self.logprobs[place], flag, self.alternatives[place]
        )


class Request:
    """A request the engine knows."""

    def __init__(self, spec: RequestSpec, *, arrival: int) -> None:
        self.spec = spec
        self.prefix = Prefix(len(spec.prompt))
        self.prompt_rows: list[OutputRow] = []
        self._scored = 0
        self.candidates = [Candidate(self, index, arrival) for index in range(spec.candidates)]

    def score_chunk(self, start: int, count: int) -> bool:
        """Count the tokens after those of a chunk as scored; answer False if none are wanted.

        Args:
            start: position of the chunk's first token.
            count: its tokens.
        """
        last = len(self.spec.prompt) - 1
        if self._scored > last or start > max(self._scored - 1, 0):
            return False
        self._scored = max(self._scored, min(start + count, last) + 1)
        return True

    def keep_scores(self, start: int, scores: Scores) -> list[OutputRow]:
        """Take the scores of a chunk that starts at position `start`; give the rows not had yet.

        A prompt computed a second time is not told a second time.
        """
        rows = []
        prompt = self.spec.prompt
        if start == 0:
            rows.append(OutputRow(0, int(prompt[0]), 0.0, PROMPT, NO_ALTERNATIVES))
        told = zip(scores.logprobs.tolist(), scores.alternatives, strict=True)
        for position, (logprob, alternatives) in enumerate(told, start + 1):
            token = int(prompt[position])
            rows.append(OutputRow(position, token, logprob, PROMPT, alternatives))
        new = [row for row in rows if row.position >= len(self.prompt_rows)]
        self.prompt_rows += new
        return new

    def sequences(self) -> list[Sequence]:
        """The sequences to schedule: of unfinished candidates, and of one if only scores lack."""
        open_ = [candidate for candidate in self.candidates if not candidate.finished]
        if not open_ and self.spec.prompt_logprobs:
            open_ = self.candidates[:1]
        return [candidate.sequence for candidate in open_]
