"""A registered request: its candidates and the scores of its prompt.

Each prompt position is taken exactly once, in order.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from detokenizer_svc.candidate import Candidate, Outcome, Rules, SpecialCandidate
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.pending_delta import Alternatives
from detokenizer_svc.stops import SpecialMatcher, StopAutomaton, StopMatcher
from protos import detokenizer_pb2, model_pb2

_BEYOND_ANY_PROMPT = 2**32 - 1


class Audience(Protocol):
    """Listener to a request's text."""

    def touch(self, request: Request, candidate: Candidate) -> None:
        """Note that `candidate` has something to send."""
        ...

    def forget(self, request: Request) -> None:
        """Send nothing more of `request`."""
        ...


class Request:
    """One attempt at a request.

    Attributes:
        handle, attempt: what rows name.
        audience: sink of the deltas.
        candidates: by index.
    """

    def __init__(
        self, register: detokenizer_pb2.Register, spelling: Vocabulary, audience: Audience
    ) -> None:
        """Begin after what `register` says was delivered."""
        self.handle = register.handle
        self.attempt = register.attempt
        self.audience = audience
        self.candidates = _candidates(register, spelling)
        self._wants_prompt = register.output.prompt_logprobs
        # Never replay prompt rows that were not requested: they could fill the ring each time and
        # starve output rows.
        self._prompt_expected = 0 if self._wants_prompt else _BEYOND_ANY_PROMPT
        self._prompt_awaiting = False
        for delivered in register.delivered:
            if delivered.candidate < len(self.candidates):
                self.candidates[delivered.candidate].rewind(
                    array("I", delivered.ids), delivered.text_length, finished=delivered.finished
                )

    def take_prompt(
        self, candidate: Candidate, position: int, token_id: int, logprob: float, top: Alternatives
    ) -> Outcome:
        """Process a row of the prompt, sent through `candidate`."""
        if not self._wants_prompt or position < self._prompt_expected:
            return Outcome.DROPPED
        if position > self._prompt_expected:
            outcome = Outcome.AWAITED if self._prompt_awaiting else Outcome.MISSING
            self._prompt_awaiting = True
            return outcome
        self._prompt_expected += 1
        self._prompt_awaiting = False
        if not candidate.unsent.prompt_scores:
            candidate.unsent.prompt_position = position
        candidate.unsent.prompt_scores.append((token_id, logprob, top))
        return Outcome.TAKEN

    def replay(self, candidate: Candidate) -> model_pb2.Replay | None:
        """Replay of all rows that `candidate` lacks; None if it wants no more.

        A finished candidate may still lack rows of the prompt, which come with candidate 0.
        """
        if candidate.finished and (candidate.index or not self._wants_prompt):
            return None
        candidate.awaiting = True
        return model_pb2.Replay(
            handle=self.handle,
            attempt=self.attempt,
            candidate=candidate.index,
            position=candidate.expected,
            prompt_position=self._prompt_expected,
        )


def _candidates(register: detokenizer_pb2.Register, spelling: Vocabulary) -> list[Candidate]:
    stop, output = register.stop, register.output
    rules = Rules(
        min_tokens=stop.min_tokens,
        include_matched=stop.include_matched,
        logprobs=output.HasField("logprobs"),
    )
    skip_special = not output.HasField("skip_special_tokens") or output.skip_special_tokens
    automaton = StopAutomaton(stop.strings) if any(stop.strings) else None
    named = spelling.special_names.found_in(stop.strings) if skip_special else {}

    def begin(index: int) -> Candidate:
        decoder = spelling.decoder(register.prompt_tail, skip_special=skip_special)
        if automaton is None:
            return Candidate(index, rules, decoder, None)
        if not named:
            matcher = StopMatcher(automaton, include_matched=stop.include_matched)
            return Candidate(index, rules, decoder, matcher)
        matcher = SpecialMatcher(automaton, include_matched=stop.include_matched)
        return SpecialCandidate(index, rules, decoder, matcher, named)

    return [begin(index) for index in range(register.candidates)]
