"""State of one request in the router, with all that it takes to start it again.

Each output position of each candidate is taken in exactly once, from the current attempt only.
"""

from __future__ import annotations

import array
import time

from router.admission.demand import Demand
from router.admission.quarantine import CrashRecord
from router.requests.delta_buffer import DeltaBuffer
from router.requests.generation_request import GenerationRequest
from router.requests.prompt_arena import Prompt
from router.requests.results import Delta, Finish, TokenLogprob
from router.requests.validation import Plan

FIRST_ATTEMPT = 1


class CandidateProgress:
    """Output of one candidate that its client has been given, or will be by the buffer.

    It is all that a service needs to go on with the candidate.
    """

    __slots__ = ("finish", "ids", "text_length")

    def __init__(self) -> None:
        self.ids = array.array("i")
        self.text_length = 0
        self.finish = Finish.UNSPECIFIED

    @property
    def finished(self) -> bool:
        """True once it has ended."""
        return self.finish is not Finish.UNSPECIFIED


class RouterRequest:
    """One request from the moment its prompt is known.

    Attributes:
        number: lower half of its handles; unique for as long as the router lives.
        handle: its number on the replica that runs it, or that ran it last.
        attempt: number of this attempt; deltas of another are dropped.
        submits: number of submits to a model.
        crash_record: engine crashes that count against it.
    """

    def __init__(
        self, number: int, request_id: str, plan: Plan, prompt: Prompt, steps_apart: int
    ) -> None:
        """Begin the first attempt; `steps_apart` is the buffer's."""
        self.number = number
        self.request_id = request_id
        self.plan = plan
        self.prompt = prompt
        self.handle = number
        self.attempt = FIRST_ATTEMPT
        self.submits = 0
        self.candidates = [CandidateProgress() for _ in range(plan.candidates)]
        self.crash_record = CrashRecord(self.candidates)
        self._open = plan.candidates
        self.buffer = DeltaBuffer(plan.output, steps_apart)
        self.prompt_logprobs: list[TokenLogprob] = []
        self.buffer.withhold(self.awaits_prompt)
        self.first_output: float | None = None  # when, by `time.monotonic`
        self.last_output: float | None = None

    def demand(self) -> Demand:
        """Needs of the request for a replica."""
        outputs = {
            index: len(candidate.ids)
            for index, candidate in enumerate(self.candidates)
            if not candidate.finished
        }
        standing, stops = self.crash_record.standing, self.plan.stop.may_stop
        return Demand(self.plan.prompt_tokens, self.plan.max_tokens, outputs, standing, stops)

    @property
    def finished(self) -> bool:
        """True once nothing more is to come."""
        return self.all_ended and not self.awaits_prompt

    @property
    def all_ended(self) -> bool:
        """True once all candidates have ended; rows of the prompt may still be missing."""
        return not self._open

    @property
    def resumed(self) -> bool:
        """True if a detokenizer may have sent output of it before."""
        return self.submits > 0

    @property
    def completion_tokens(self) -> int:
        """Output tokens of all candidates so far."""
        return sum(len(candidate.ids) for candidate in self.candidates)

    def take(self, delta: Delta, step: int) -> bool:
        """Take in a delta of `step`; return whether it was the next of its candidate.

        A delta of another attempt, at another position than the next, or after an ending is
        dropped.
        """
        if delta.attempt != self.attempt or delta.candidate >= len(self.candidates):
            return False
        if delta.prompt_logprobs:
            self._take_prompt(delta)
        taken = self._take_output(delta, step)
        if self.finished:
            self.buffer.close()
        return taken

    def _take_output(self, delta: Delta, step: int) -> bool:
        candidate = self.candidates[delta.candidate]
        before, finish = len(candidate.ids), delta.finish
        if candidate.finished or delta.position != before:
            return False
        candidate.ids.extend(delta.token_ids)
        candidate.text_length += len(delta.text)
        if finish:
            candidate.finish = finish
            self._open -= 1
        if finish or len(candidate.ids) > before:  # and not scores of the prompt alone
            self.last_output = time.monotonic()
            self.first_output = self.first_output or self.last_output
        self.buffer.add(delta, step)
        return True

    def fail(self, error: BaseException) -> None:
        """End it with `error`."""
        self.buffer.fail(error)

    def _take_prompt(self, delta: Delta) -> None:
        start = delta.prompt_position
        for position, logprob in enumerate(delta.prompt_logprobs, start):
            if position == len(self.prompt_logprobs):
                self.prompt_logprobs.append(logprob)
        self.buffer.withhold(self.awaits_prompt)

    @property
    def awaits_prompt(self) -> bool:
        """True while log-probabilities of the prompt, due in the first message, are missing."""
        return self.plan.output.prompt_logprobs and (
            len(self.prompt_logprobs) < self.plan.prompt_tokens
        )


def least_demand(request: GenerationRequest) -> Demand:
    """Least needs of `request`, as far as they are known before its prompt is read."""
    return Demand(0, request.stop.max_tokens or 0, {0: 0}, may_stop=request.stop.may_stop)
