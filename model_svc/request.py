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

from model_svc import scheduler
from model_svc.sampling import Draw, SamplingSpec, TokenHistory
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
    sampling: SamplingSpec
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
        self.output: list[int] = [] if earlier is None else earlier.ids.tolist()
        self.finished = earlier is not None and earlier.finished
        self.rows: list[OutputRow] = []
        self.sequence = scheduler.Sequence(
            order=(spec.priority, arrival, index), known=len(spec.prompt) + len(self.output)
        )
        self._history: TokenHistory | None = None
        if spec.sampling.needs_history:
            output = np.asarray(self.output, dtype=np.int32)
            self._history = TokenHistory(request.vocab_size, spec.prompt, output)

    @property
    def exhausted(self) -> bool:
        """Whether it may draw no token and its prompt need not be computed either."""
        spec = self.request.spec
        unscored = spec.prompt_logprobs and not self.output
        return len(self.output) >= spec.max_tokens and not unscored

    @property
    def draw(self) -> Draw:
        """The next token to draw."""
        sampling = self.request.spec.sampling
        return Draw(sampling, len(self.output), self.index, self._history)

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
        spec = self.request.spec
        position = len(self.output)
        flags = 0
        if token in spec.stop_ids and position >= spec.sampling.min_tokens:
            flags = STOP
        elif position + 1 >= spec.max_tokens:
            flags = LENGTH
        self.output.append(token)
        self.sequence.known += 1
        if self._history is not None:
            self._history.append(token)
        return self._keep(OutputRow(position, token, logprob, flags, alternatives))

    def end_without_token(self) -> OutputRow:
        """End it where no token may be drawn."""
        flags = LENGTH | NO_TOKEN
        return self._keep(OutputRow(len(self.output), 0, float("nan"), flags, NO_ALTERNATIVES))

    def _keep(self, row: OutputRow) -> OutputRow:
        self.rows.append(row)
        self.finished = self.finished or bool(row.flags & FINISHED)
        return row

    def rows_from(self, position: int) -> Sequence[OutputRow]:
        """The rows of this attempt from output position `position` on."""
        if not self.rows:
            return ()
        return self.rows[max(position - self.rows[0].position, 0) :]


class Request:
    """A request the engine knows."""

    def __init__(self, spec: RequestSpec, *, arrival: int, vocab_size: int) -> None:
        self.spec = spec
        self.vocab_size = vocab_size
        self.prompt_rows: list[OutputRow] = []
        self.candidates = [Candidate(self, index, arrival) for index in range(spec.candidates)]

    def wants_scores_from(self, position: int) -> bool:
        """Whether prompt tokens after `position` are still to be scored."""
        last = len(self.spec.prompt) - 1
        scored = len(self.prompt_rows)
        return self.spec.prompt_logprobs and scored <= last and position <= max(scored - 1, 0)

    def sequences(self) -> list[scheduler.Sequence]:
        """The sequences to schedule: fresh candidates follow the first of them."""
        open_ = [candidate for candidate in self.candidates if not candidate.finished]
        fresh = [candidate.sequence for candidate in open_ if not candidate.output]
        resumed = [candidate.sequence for candidate in open_ if candidate.output]
        if fresh:
            fresh[0].followers = fresh[1:]
        return [*fresh[:1], *resumed]
