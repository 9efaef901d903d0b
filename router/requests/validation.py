"""What makes a request acceptable: pure checks, and the defaults that depend on the model.

Whoever passes them can run on any replica; whoever does not is told which field is at fault.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from chassis.errors import InvalidRequest, NotFound
from protos import generation_pb2
from router.requests.parameters import check_output, check_sampling, check_stop

MOST_REQUEST_ID = 256

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the deployment's model allows.

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
    defaults: generation_pb2.SamplingParams | None = None

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
        sampling: with seed and n set.
        stop: with max_tokens set.
        output: as sent.
        prompt_field: path of the prompt in the request.
    """

    prompt_tokens: int
    candidates: int
    max_tokens: int
    priority: int
    sampling: generation_pb2.SamplingParams
    stop: generation_pb2.StopConditions
    output: generation_pb2.OutputOptions
    prompt_field: str = "prompt"


def check_request(request: generation_pb2.GenerateRequest) -> None:
    """Check all that can be checked without knowing the model.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    check_prompt(request)
    check_sampling(request.sampling)
    check_stop(request.stop)
    check_output(request.output)


def check_prompt(
    request: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest,
) -> None:
    """Check that there is a prompt.

    Raises:
        InvalidRequest: there is none.
    """
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequest("prompt", "missing")
    if kind == "chat" and not request.chat.messages:
        raise InvalidRequest("chat.messages", "there are none")


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


def check_against(request: generation_pb2.GenerateRequest, limits: Limits) -> None:
    """Check what depends on the model but not on the prompt's length in tokens.

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


def sent_ids(request: generation_pb2.GenerateRequest, limits: Limits) -> Sequence[int]:
    """The ids of a prompt that was sent as ids, without those that are cut off.

    Raises:
        InvalidRequest: there are none, too many, or unknown ones.
    """
    field, ids = "token_ids.ids", request.token_ids.ids
    if 0 < request.truncate_prompt_tokens < len(ids):
        kept = ids[-request.truncate_prompt_tokens :]
    else:
        check_length(field, len(ids), limits)
        kept = ids[:]
    check_ids(field, kept, limits)
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


def resolve(request: generation_pb2.GenerateRequest, prompt_tokens: int, limits: Limits) -> Plan:
    """Check the lengths and fill in the defaults.

    Args:
        request: passed `check_request` and `check_against`.
        prompt_tokens: length of its prompt.
        limits: what the model allows.

    Raises:
        InvalidRequest: the prompt is empty or too long, alone or with max_tokens.
    """
    max_tokens = _max_tokens(request, prompt_tokens, limits)
    if request.stop.min_tokens > max_tokens:
        raise InvalidRequest(
            "stop.min_tokens", f"{request.stop.min_tokens} is more than max_tokens, {max_tokens}"
        )
    sampling = _sampling(request.sampling, limits.defaults)
    if not sampling.HasField("seed"):
        sampling.seed = secrets.randbits(64)
    if not sampling.HasField("n"):
        sampling.n = 1
    stop = _copied(request.stop)
    stop.max_tokens = max_tokens
    return Plan(
        prompt_tokens=prompt_tokens,
        candidates=sampling.n,
        max_tokens=max_tokens,
        priority=request.priority,
        sampling=sampling,
        stop=stop,
        output=_copied(request.output),
        prompt_field=prompt_field(request),
    )


def _copied(part: M) -> M:
    """The same by itself: a part of a request keeps all of it."""
    copy = type(part)()
    copy.CopyFrom(part)
    return copy


def check_length(field: str, prompt_tokens: int, limits: Limits) -> None:
    """Check that a prompt of so many tokens can run.

    Raises:
        InvalidRequest: it is empty or too long.
    """
    if prompt_tokens == 0:
        raise InvalidRequest(field, "the prompt has no tokens")
    if prompt_tokens > limits.most_tokens:
        raise InvalidRequest(
            field, f"the prompt has {prompt_tokens} tokens, more than the {_room(limits)}"
        )


def _sampling(
    asked: generation_pb2.SamplingParams, defaults: generation_pb2.SamplingParams | None
) -> generation_pb2.SamplingParams:
    """Fill in `asked` from `defaults`; without bad words, which reach the model as ids."""
    sampling = generation_pb2.SamplingParams() if defaults is None else _copied(defaults)
    sampling.MergeFrom(asked)
    sampling.ClearField("bad_words")
    return sampling


def prompt_field(request: generation_pb2.GenerateRequest) -> str:
    """The path of the prompt that `request` carries."""
    kind = request.WhichOneof("prompt")
    return "token_ids.ids" if kind == "token_ids" else kind or "prompt"


def _max_tokens(request: generation_pb2.GenerateRequest, prompt_tokens: int, limits: Limits) -> int:
    """Output tokens of one candidate at most, as asked for or as there is room."""
    field = prompt_field(request)
    check_length(field, prompt_tokens, limits)
    if request.stop.HasField("max_tokens"):
        wanted = prompt_tokens + request.stop.max_tokens
        if wanted > limits.most_tokens:
            raise InvalidRequest(
                "stop.max_tokens",
                f"the prompt's {prompt_tokens} tokens and max_tokens {request.stop.max_tokens} "
                f"make {wanted}, more than the {_room(limits)}",
            )
        return request.stop.max_tokens
    if prompt_tokens == limits.most_tokens:
        raise InvalidRequest(
            field,
            f"the prompt's {prompt_tokens} tokens leave no room for output in the {_room(limits)}",
        )
    return limits.most_tokens - prompt_tokens


def _room(limits: Limits) -> str:
    if limits.context_length <= limits.kv_slots:
        return f"{limits.context_length} of the model's context"
    return f"{limits.kv_slots} of the KV pool"
