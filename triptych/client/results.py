"""Answers of the clients: frozen values, free of protobuf."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class FinishReason(enum.Enum):
    """Why a candidate ended."""

    STOP = "stop"
    """A stop string, a stop token or an end-of-sequence token."""
    LENGTH = "length"
    """max_tokens, the context or the KV pool."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token.

    Attributes:
        token_id: its id.
        token: its bytes; a token may be part of a character.
        logprob: natural logarithm of its probability under the raw logits.
        top: the likeliest tokens at the same place, likeliest first.
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateText:
    """One continuation: whole in a `Completion`, its next part in a `Delta`.

    Attributes:
        index: 0 to n - 1.
        text: without the matched stop string, unless that was asked for.
        token_ids: where asked for.
        finish_reason: None while it goes on.
        matched_stop: the stop string that ended it.
        matched_token_id: the token id that ended it.
        logprobs: one a token, where asked for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    matched_stop: str | None = None
    matched_token_id: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of a request, in tokens; `cached_prompt_tokens` are those that cost no prefill."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """Facts about the prompt that were asked for."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    text: str


def _first(candidates: Sequence[CandidateText]) -> CandidateText | None:
    return next((candidate for candidate in candidates if candidate.index == 0), None)


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt's continuations, in order of index."""

    request_id: str
    candidates: tuple[CandidateText, ...]
    usage: Usage
    prompt: PromptEcho | None = None

    @property
    def text(self) -> str:
        """Text of the first candidate."""
        first = _first(self.candidates)
        return first.text if first else ""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first candidate ended."""
        first = _first(self.candidates)
        return first.finish_reason if first else None


@dataclass(frozen=True, slots=True)
class Delta:
    """One message of a stream: the next part of each candidate that moved.

    Attributes:
        request_id: as sent, or as the server made it.
        candidates: the parts.
        usage: on the last message.
        prompt: on the first message, where asked for.
    """

    request_id: str
    candidates: tuple[CandidateText, ...]
    usage: Usage | None = None
    prompt: PromptEcho | None = None

    @property
    def text(self) -> str:
        """Text that this message adds to the first candidate; empty where it adds none."""
        first = _first(self.candidates)
        return first.text if first else ""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first candidate ended, if it ends here."""
        first = _first(self.candidates)
        return first.finish_reason if first else None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text: `ids`, and the bytes of each in `pieces`."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A model served.

    Attributes:
        name: for `Options.model`.
        architecture: as in the checkpoint, such as MixtralForCausalLM.
        context_length: prompt and output tokens together.
        vocab_size: token ids are below this.
        parameters: weights, counted once where they are tied.
        dtype: what it computes in.
        version: the server's.
        generation_defaults: sampling options that the checkpoint recommends, by their names in
            `Options`: `client.generate(prompt, **model.generation_defaults)` uses them.
    """

    name: str
    architecture: str
    context_length: int
    vocab_size: int
    parameters: int
    dtype: str
    version: str
    generation_defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Load of one model process; `kv_slots_cached` hold nothing but cached prefixes."""

    address: str
    ready: bool
    running: int
    kv_slots_used: int
    kv_slots_total: int
    kv_slots_cached: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load of the deployment, in requests and KV slots."""

    queued: int
    running: int
    kv_slots_used: int
    kv_slots_total: int
    replicas: tuple[ReplicaLoad, ...]
