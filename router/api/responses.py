"""Results of the core as messages of `triptych.v1`.

The prompt's ids are sent where the prompt is asked for (echo, prompt_logprobs) and ids are
(token_ids): unasked, they would make every answer as long as its prompt.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from chassis.serving.introspection import triptych_version
from protos import generation_pb2
from router.links.messages import sampling_message
from router.links.tokenizer_link import Encoded
from router.requests.request import RouterRequest
from router.requests.results import CandidatePart, Logprobs, ModelInfo, ReplicaLoad

_SLICE = 8192

T = TypeVar("T")


def add_parts(candidates: Any, parts: Iterable[CandidatePart]) -> None:
    """Add each part to `candidates`, a repeated field of `triptych.v1.Candidate`."""
    for part in parts:
        candidate = candidates.add(index=part.index, text=part.text)
        if part.token_ids:
            candidate.token_ids.extend(part.token_ids)
        for logprobs in part.logprobs:
            candidate.logprobs.extend(_messages(logprobs))
        if part.finish:
            candidate.finish_reason = part.finish
            if part.matched_stop is not None:
                candidate.matched_stop = part.matched_stop
            elif part.matched_token_id is not None:
                candidate.matched_token_id = part.matched_token_id


def usage_of(request: RouterRequest) -> generation_pb2.Usage:
    """The tokens of a request."""
    return generation_pb2.Usage(
        prompt_tokens=request.plan.prompt_tokens, completion_tokens=request.completion_tokens
    )


async def prompt_of(request: RouterRequest) -> generation_pb2.Prompt | None:
    """The prompt, or None where it was not asked for."""
    output = request.plan.output
    if not (output.echo or output.prompt_logprobs):
        return None
    prompt = generation_pb2.Prompt()
    for part in slices(request.prompt_logprobs):
        prompt.logprobs.extend(_messages(part))
        await asyncio.sleep(0)
    if output.echo:
        prompt.text = request.prompt.text
    if output.token_ids:
        prompt.token_ids.extend(request.prompt.ids())
    return prompt


async def tokens_of(encoded: Encoded) -> generation_pb2.TokenizeResponse:
    """The tokens of a prompt."""
    response = generation_pb2.TokenizeResponse()
    for ids in slices(array.array("i", encoded.ids)):
        response.token_ids.extend(ids)
        await asyncio.sleep(0)
    for tokens in slices(encoded.tokens):
        response.tokens.extend(tokens)
        await asyncio.sleep(0)
    return response


def model_of(info: ModelInfo) -> generation_pb2.Model:
    """The model; of this release where it names no version."""
    model = generation_pb2.Model(
        name=info.name,
        architecture=info.architecture,
        context_length=info.context_length,
        vocab_size=info.vocab_size,
        parameters=info.parameters,
        dtype=info.dtype,
        version=info.version or triptych_version(),
    )
    if info.defaults is not None:
        defaults = sampling_message(info.defaults, info.defaults.seed, info.defaults.n)
        model.generation_defaults.CopyFrom(defaults)
    return model


def replica_of(load: ReplicaLoad) -> generation_pb2.Replica:
    """A replica's load."""
    return generation_pb2.Replica(
        address=load.address,
        ready=load.ready,
        running=load.running,
        kv_slots_used=load.kv_slots_used,
        kv_slots_total=load.kv_slots_total,
        kv_slots_cached=load.kv_slots_cached,
    )


def slices(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values` in parts that take little time each: the event loop has others to serve."""
    for start in range(0, len(values), _SLICE):
        yield values[start : start + _SLICE]


def _messages(logprobs: Logprobs) -> Sequence[generation_pb2.TokenLogprob]:
    """Log-probabilities as the messages that they are (see `TokenLogprob`)."""
    return cast(Sequence[generation_pb2.TokenLogprob], logprobs)
