"""Checks of requests, and the defaults that depend on the model. Pure.

A request that passes them can run on any replica; the error of another names the field at fault.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chassis.errors import InvalidRequest, NotFound
from router.requests.generation_request import GenerationRequest
from router.requests.parameters import (
    OutputOptions,
    SamplingParams,
    StopConditions,
    check_output,
    check_sampling,
    check_stop,
)

MOST_REQUEST_ID = 256
PROMPT = "prompt"
"""Name of the prompt in errors."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the deployment's model.

    Attributes:
        model: the name a request may give.
        context_length: prompt and output tokens of one candidate together.
        vocab_size: ids are below this.
        kv_slots: tokens that the smallest replica's KV pool holds.
        defaults: sampling parameters where a request sets none; None: those of the API.
    """

    model: str
    context_length: int
    vocab_size: int
    kv_slots: int
    defaults: SamplingParams | None = None

    @property
    def most_tokens(self) -> int:
        """Prompt and output tokens that one candidate may ever have."""
        return min(self.context_length, self.kv_slots)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with its defaults filled in.

    Attributes:
        prompt_tokens: length of the prompt.
        candidates: how many continuations.
        max_tokens: output tokens of one candidate at most.
        priority: lower runs first.
        seed: of the sampling.
        sampling: as sent, over the defaults; `seed` and `candidates` hold instead of its own.
        stop: as sent; `max_tokens` holds instead of its own.
        output: as sent.
    """

    prompt_tokens: int
    candidates: int
    max_tokens: int
    priority: int
    seed: int
    sampling: SamplingParams
    stop: StopConditions
    output: OutputOptions


def check_request(request: GenerationRequest) -> None:
    """Check the parameters, as far as that needs no model.

    Raises:
        InvalidRequest: a parameter is out of range.
    """
    check_sampling(request.sampling)
    check_stop(request.stop)
    check_output(request.output)


def check_request_id(request_id: str) -> None:
    """Check that a label can travel in metadata and on a log line.

    Raises:
        InvalidRequest: it is too long, or not printable ASCII.
    """
    if len(request_id) > MOST_REQUEST_ID:
        raise InvalidRequest("request_id", f"longer than {MOST_REQUEST_ID} characters")
    if not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequest("request_id", "not printable ASCII")


def check_model(name: str, limits: Limits) -> None:
    """Check that `name` is the model served; empty means it.

    Raises:
        NotFound: it is another.
    """
    if name and name != limits.model:
        raise NotFound(f"no model {name!r} is served; there is {limits.model!r}")


def check_against(request: GenerationRequest, limits: Limits) -> None:
    """Check the parameters against the model, as far as that needs no prompt length in tokens.

    Raises:
        InvalidRequest: an id is not of the vocabulary, or a length is beyond the context.
        NotFound: the model is not served.
    """
    check_model(request.model, limits)
    if request.truncate_prompt_tokens > limits.most_tokens:
        raise InvalidRequest(
            "truncate_prompt_tokens",
            f"{request.truncate_prompt_tokens} is more than the {_room(limits)}",
        )
    check_ids("stop.token_ids", request.stop.token_ids, limits)
    check_ids("sampling.logit_bias", request.sampling.logit_bias, limits)


def kept_ids(ids: Sequence[int], truncate: int, limits: Limits) -> Sequence[int]:
    """The ids of a prompt that was sent as ids, without those that are cut off.

    Args:
        ids: as sent.
        truncate: last ids that are kept; 0: all.
        limits: of the model.

    Raises:
        InvalidRequest: there are none, too many, or unknown ones.
    """
    if 0 < truncate < len(ids):
        kept = ids[-truncate:]
    else:
        check_length(len(ids), limits)
        kept = ids[:]
    check_ids(PROMPT, kept, limits)
    return kept


def check_ids(field: str, ids: Iterable[int], limits: Limits) -> None:
    """Check that each id is of the vocabulary.

    Raises:
        InvalidRequest: one is not.
    """
    highest = max(ids, default=0)
    if highest >= limits.vocab_size:
        raise InvalidRequest(
            field, f"unknown token id {highest}: ids are below {limits.vocab_size}"
        )


def resolve(request: GenerationRequest, prompt_tokens: int, limits: Limits) -> Plan:
    """Check the lengths and fill in the defaults.

    Args:
        request: passed `check_request` and `check_against`.
        prompt_tokens: length of its prompt.
        limits: of the model.

    Raises:
        InvalidRequest: the prompt is empty or too long, alone or with max_tokens.
    """
    max_tokens = _max_tokens(request, prompt_tokens, limits)
    if request.stop.min_tokens > max_tokens:
        raise InvalidRequest(
            "stop.min_tokens", f"{request.stop.min_tokens} is more than max_tokens, {max_tokens}"
        )
    sampling = request.sampling
    if limits.defaults is not None:
        sampling = sampling.over(limits.defaults)
    return Plan(
        prompt_tokens=prompt_tokens,
        candidates=1 if sampling.n is None else sampling.n,
        max_tokens=max_tokens,
        priority=request.priority,
        seed=secrets.randbits(64) if sampling.seed is None else sampling.seed,
        sampling=sampling,
        stop=request.stop,
        output=request.output,
    )


def check_length(prompt_tokens: int, limits: Limits) -> None:
    """Check that a prompt of so many tokens can run.

    Raises:
        InvalidRequest: it is empty or too long.
    """
    if prompt_tokens == 0:
        raise InvalidRequest(PROMPT, "the prompt has no tokens")
    if prompt_tokens > limits.most_tokens:
        raise InvalidRequest(
            PROMPT, f"the prompt has {prompt_tokens} tokens, more than the {_room(limits)}"
        )


def _max_tokens(request: GenerationRequest, prompt_tokens: int, limits: Limits) -> int:
    """Output tokens of one candidate at most, as asked for or as there is room."""
    check_length(prompt_tokens, limits)
    asked = request.stop.max_tokens
    if asked is not None:
        wanted = prompt_tokens + asked
        if wanted > limits.most_tokens:
            raise InvalidRequest(
                "stop.max_tokens",
                f"the prompt's {prompt_tokens} tokens and max_tokens {asked} "
                f"make {wanted}, more than the {_room(limits)}",
            )
        return asked
    if prompt_tokens == limits.most_tokens:
        raise InvalidRequest(
            PROMPT,
            f"the prompt's {prompt_tokens} tokens leave no room for output in the {_room(limits)}",
        )
    return limits.most_tokens - prompt_tokens


def _room(limits: Limits) -> str:
    if limits.context_length <= limits.kv_slots:
        return f"{limits.context_length} of the model's context"
    return f"{limits.kv_slots} of the KV pool"
