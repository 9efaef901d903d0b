"""One candidate: rows of token frames in, deltas for the router out.

Each output position is taken exactly once, in order, and nothing after the end. Ids and
log-probabilities can be sent at once, text when it is final. No row makes this fail: what does
not fit is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from detokenizer_svc.decoder import IncrementalDecoder
from detokenizer_svc.pending_delta import Alternatives, PendingDelta
from detokenizer_svc.stops import SpecialMatcher, StopMatcher
from protos.generation_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP, FinishReason
from protos.token_frame import FINISHED, NO_TOKEN, STOP


class Outcome(enum.Enum):
    """Result of taking a row."""

    TAKEN = enum.auto()
    DROPPED = enum.auto()  # it came before, or after the end
    MISSING = enum.auto()  # rows before it are missing, and are to be asked for
    AWAITED = enum.auto()  # rows before it are missing, and were asked for


@dataclass(frozen=True, slots=True)
class Rules:
    """Wishes of a request, and the rules that end its candidates.

    Attributes:
        min_tokens: a stop string counts if the text of a token after so many completes it, as a
            stop token counts for the model.
        include_matched: what ended a candidate stays in its text.
        logprobs: log-probabilities are wanted.
    """

    min_tokens: int
    include_matched: bool
    logprobs: bool


class Candidate:
    """One continuation of the prompt, up to its last row.

    Attributes:
        index: 0 to n - 1.
        expected: output position of the next row.
        awaiting: missing rows were asked for and have not come.
        finished: no more rows are wanted.
        unsent: delta not sent yet.
    """

    __slots__ = (
        "_decoder",
        "_matcher",
        "_rules",
        "awaiting",
        "expected",
        "finished",
        "index",
        "unsent",
    )

    def __init__(
        self, index: int, rules: Rules, decoder: IncrementalDecoder, matcher: StopMatcher | None
    ) -> None:
        """Begin an output; `matcher` is None if there are no stop strings."""
        self.index = index
        self.expected = 0
        self.awaiting = False
        self.finished = False
        self.unsent = PendingDelta()
        self._rules = rules
        self._decoder = decoder
        self._matcher = matcher

    def rewind(self, ids: Iterable[int], text_length: int, *, finished: bool) -> None:
        """Continue after delivered output: `ids` and `text_length` characters of text.

        Text that those ids give beyond what was delivered is unsent.
        """
        for token_id in ids:
            self.expected += 1
            if not self.finished:
                self._decode(token_id, flags=0)
        text = "".join(self.unsent.text)[text_length:]
        if finished:
            self.finished = True
            self.unsent = PendingDelta(self.expected)
        else:
            self.unsent.position = self.expected
            self.unsent.text = [text] if text else []

    def add_row(
        self, position: int, token_id: int, flags: int, logprob: float, top: Alternatives
    ) -> Outcome:
        """Process a row of the output."""
        if self.finished:
            return Outcome.DROPPED
        if position > self.expected:
            outcome = Outcome.AWAITED if self.awaiting else Outcome.MISSING
            self.awaiting = True
            return outcome
        if flags & NO_TOKEN:
            # An ending is one, whether it names the last position or the one after.
            self._end_without_token(token_id, flags)
            return Outcome.TAKEN
        if position < self.expected:
            return Outcome.DROPPED
        self.expected += 1
        self.awaiting = False
        self.unsent.ids.append(token_id)
        if self._rules.logprobs:
            self.unsent.scores.append((token_id, logprob, top))
        self._decode(token_id, flags)
        return Outcome.TAKEN

    def _decode(self, token_id: int, flags: int) -> None:
        """Turn one token into text; decide whether it is the last."""
        bare = self._held() if flags & STOP else ""  # the end, if this token has no text
        self._release(self._decoder.feed(token_id), flags, token_id, bare)

    def _end_without_token(self, token_id: int, flags: int) -> None:
        """End it after its last token, which `token_id` names where it is a stop token."""
        self._release("", flags, token_id, self._held())

    def _release(self, text: str, flags: int, token_id: int, bare: str) -> None:
        """Release the text that is final now that `text` has come; a stop string ends it first.

        Where the token of `text` is a stop token and its text is not wanted, `bare` is the end.
        """
        if flags & FINISHED:
            text += self._decoder.held()
        if self._matcher is not None:
            armed = self.expected > self._rules.min_tokens
            text, stop = self._matcher.feed(text, armed=armed)
            if stop is not None:
                self._end(text, FINISH_REASON_STOP, stop)
                return
            if flags & FINISHED:
                text += self._matcher.held
        if flags & STOP:
            self._end(text if self._rules.include_matched else bare, FINISH_REASON_STOP, token_id)
        elif flags & FINISHED:
            self._end(text, FINISH_REASON_LENGTH)
        elif text:
            self.unsent.text.append(text)

    def _held(self) -> str:
        """The text that is held back, if nothing more comes."""
        held = "" if self._matcher is None else self._matcher.held
        return held + self._decoder.held()

    def _end(
        self, text: str, reason: FinishReason.ValueType, matched: str | int | None = None
    ) -> None:
        if text:
            self.unsent.text.append(text)
        self.unsent.finish = reason
        self.unsent.matched = matched
        self.finished = True


class SpecialCandidate(Candidate):
    """One continuation that may end at a special token which its text leaves out."""

    __slots__ = ("_named", "_special_matcher")

    def __init__(
        self,
        index: int,
        rules: Rules,
        decoder: IncrementalDecoder,
        matcher: SpecialMatcher,
        named: Mapping[int, str],
    ) -> None:
        """Begin an output; `named` are the special tokens that stop strings name."""
        super().__init__(index, rules, decoder, matcher)
        self._special_matcher = matcher
        self._named = named

    def _decode(self, token_id: int, flags: int) -> None:
        name = self._named.get(token_id)
        if name is not None:
            armed = self.expected > self._rules.min_tokens
            held = self._decoder.held()
            text, stop = self._special_matcher.feed_special(name, held, armed=armed)
            if stop is not None:
                self._end(text, FINISH_REASON_STOP, stop)
                return
        super()._decode(token_id, flags)
