"""Results of a request: deltas of its candidates as they come, and the parts that clients get."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.requests.parameters import SamplingParams


class Finish(enum.IntEnum):
    """End of a candidate; the numbers are those of every protocol of ours."""

    UNSPECIFIED = 0  # it has not ended
    STOP = 1
    LENGTH = 2


class TokenLogprob(Protocol):
    """Log-probability of a token, and of its alternatives.

    The objects are the messages in which they came: the core passes them on unread, and to convert
    each would cost more than all else that is done for a token.
    """

    @property
    def token_id(self) -> int:
        """Id of the token."""

    @property
    def token(self) -> bytes:
        """Bytes of the token."""

    @property
    def logprob(self) -> float:
        """Natural logarithm of its probability."""

    @property
    def top(self) -> Sequence[TokenLogprob]:
        """Its alternatives, the likeliest first."""


Logprobs = Sequence[TokenLogprob]


@dataclass(slots=True)
class Delta:
    """Progress of one candidate in one step.

    Attributes:
        handle: of the request.
        attempt: at the request.
        candidate: index of the candidate.
        position: of the first of `token_ids` in the output.
        token_ids: new ids.
        text: new text.
        finish: the candidate's end, if it comes with this.
        matched_stop: the stop string that ended it.
        matched_token_id: the id that ended it.
        logprobs: of `token_ids`; empty: not asked for.
        prompt_logprobs: of the prompt, from `prompt_position`.
        prompt_position: of the first of `prompt_logprobs`.
    """

    handle: int
    attempt: int
    candidate: int
    position: int
    token_ids: Sequence[int]
    text: str
    finish: Finish = Finish.UNSPECIFIED
    matched_stop: str | None = None
    matched_token_id: int | None = None
    logprobs: Logprobs = ()
    prompt_logprobs: Logprobs = ()
    prompt_position: int = 0


class CandidatePart:
    """The next part of one candidate, merged of one or more deltas.

    Attributes:
        index: of the candidate.
        token_ids: new ids, where asked for.
        logprobs: of `token_ids`, where asked for; one sequence for each delta.
        finish: the candidate's end, if it comes with this part.
        matched_stop: the stop string that ended it.
        matched_token_id: the id that ended it.
    """

    __slots__ = (
        "_texts", "finish", "index", "logprobs", "matched_stop", "matched_token_id", "token_ids"
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self._texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[Logprobs] = []
        self.finish = Finish.UNSPECIFIED
        self.matched_stop: str | None = None
        self.matched_token_id: int | None = None

    @property
    def text(self) -> str:
        """New text."""
        return "".join(self._texts)

    def add(self, delta: Delta) -> None:
        """Merge the text and the end of `delta`."""
        if text := delta.text:
            self._texts.append(text)
        if finish := delta.finish:
            self.finish = finish
            self.matched_stop = delta.matched_stop
            self.matched_token_id = delta.matched_token_id


@dataclass(slots=True)
class ModelInfo:
    """A model, as a replica describes it."""

    name: str
    context_length: int
    vocab_size: int
    architecture: str = ""
    parameters: int = 0
    dtype: str = ""
    version: str = ""
    defaults: SamplingParams | None = None
    """Sampling parameters that the checkpoint recommends."""


@dataclass(slots=True)
class ReplicaLoad:
    """A replica's load."""

    address: str
    ready: bool
    running: int
    kv_slots_used: int
    kv_slots_total: int
    kv_slots_cached: int
