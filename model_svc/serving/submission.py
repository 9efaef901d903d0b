"""From a Submit message to what the engine runs; a submit that cannot run is refused by name.

Invariant: a Submit that would fail in the engine, whoever made it, is refused here. Counts are
checked before what they count is walked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chassis.errors import InvalidRequest
from chassis.memory.shared_file import PeerFiles
from model_svc.engine.request import EarlierOutput, RequestSpec
from model_svc.sampling.params import RANGES, SamplingParams
from protos import generation_pb2, model_pb2

_ID = np.dtype("<i4")
_MOST_CANDIDATES = 16
_MOST_LOGPROBS = 20
# At most 64 words of 16,384 characters, each tokenised in a few ways, to at most four ids a
# character.
_MOST_BAD_SEQUENCES = 64 * 4
_MOST_BAD_IDS = 16_384 * 4 * 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request.

    Attributes:
        vocab_size: token ids are below this.
        tokens: prompt and output of one candidate, in context and KV pool.
        eos_token_ids: the checkpoint's end-of-sequence ids.
    """

    vocab_size: int
    tokens: int
    eos_token_ids: frozenset[int]


def read_submit(submit: model_pb2.Submit, arenas: PeerFiles, limits: Limits) -> RequestSpec:
    """Build what the engine runs; the prompt is copied out of the arena.

    Raises:
        InvalidRequest: something cannot be read, is out of range or does not fit.
    """
    prompt = _prompt(submit, arenas, limits)
    candidates = submit.sampling.n or 1
    if candidates > _MOST_CANDIDATES:
        raise InvalidRequest("sampling.n", f"{candidates} is more than {_MOST_CANDIDATES}")
    if submit.logprobs > _MOST_LOGPROBS:
        raise InvalidRequest("output.logprobs", f"{submit.logprobs} is more than {_MOST_LOGPROBS}")
    _check_listed("stop.token_ids", submit.stop.token_ids, limits)
    stop_ids = frozenset(submit.stop.token_ids)
    if not submit.stop.ignore_eos:
        stop_ids |= limits.eos_token_ids
    return RequestSpec(
        handle=submit.handle,
        attempt=submit.attempt,
        request_id=submit.request_id,
        prompt=prompt,
        sampling=_sampling(submit, stop_ids, limits),
        candidates=candidates,
        max_tokens=submit.stop.max_tokens,
        stop_ids=stop_ids,
        prompt_logprobs=submit.prompt_logprobs,
        priority=submit.priority,
        progress=_progress(submit, candidates, limits),
    )


def _prompt(submit: model_pb2.Submit, arenas: PeerFiles, limits: Limits) -> npt.NDArray[np.int32]:
    field = submit.WhichOneof("prompt")
    if field is None:
        raise InvalidRequest("prompt", "missing")
    try:
        source = submit.ids if field == "ids" else arenas.view(submit.slab)
    except (KeyError, ValueError) as error:
        raise InvalidRequest("slab", f"cannot be read: {error}") from error
    count = len(source) // _ID.itemsize
    wanted = count + submit.stop.max_tokens
    if wanted > limits.tokens:
        raise InvalidRequest("stop.max_tokens", f"{wanted} tokens wanted, {limits.tokens} fit")
    prompt = _ids(field, source)
    if not count:
        raise InvalidRequest("prompt", "is empty")
    _check_ids("prompt", prompt, limits)
    return prompt


def _progress(
    submit: model_pb2.Submit, candidates: int, limits: Limits
) -> dict[int, EarlierOutput]:
    earlier: dict[int, EarlierOutput] = {}
    for progress in submit.progress:
        if progress.candidate >= candidates or progress.candidate in earlier:
            raise InvalidRequest(
                "progress", f"candidate {progress.candidate} is told twice or there is none"
            )
        ids = _ids("progress", progress.ids)
        _check_ids("progress", ids, limits)
        if len(ids) > submit.stop.max_tokens:
            raise InvalidRequest(
                "progress", f"has {len(ids)} ids, and max_tokens is {submit.stop.max_tokens}"
            )
        earlier[progress.candidate] = EarlierOutput(ids, progress.finished)
    return earlier


def _ids(field: str, source: bytes | memoryview) -> npt.NDArray[np.int32]:
    if len(source) % _ID.itemsize:
        raise InvalidRequest(field, f"{len(source)} bytes are no whole ids")
    return np.frombuffer(source, _ID).astype(np.int32)


def _check_ids(field: str, ids: npt.NDArray[np.int32], limits: Limits) -> None:
    if not len(ids) or (ids.min() >= 0 and ids.max() < limits.vocab_size):
        return
    position = int(np.argmax((ids < 0) | (ids >= limits.vocab_size)))
    fault = "is below 0" if ids[position] < 0 else f"is not below {limits.vocab_size}"
    raise InvalidRequest(field, f"id {ids[position]} at position {position} {fault}")


def _check_listed(field: str, ids: Collection[int], limits: Limits) -> None:
    """Check ids whose order means nothing: more of them than the vocabulary has are refused."""
    if len(ids) > limits.vocab_size:
        raise InvalidRequest(
            field, f"has {len(ids)} ids, and the vocabulary has {limits.vocab_size}"
        )
    highest = max(ids, default=0)
    if highest >= limits.vocab_size:
        raise InvalidRequest(field, f"id {highest} is not below {limits.vocab_size}")


def _sampling(submit: model_pb2.Submit, stop_ids: Iterable[int], limits: Limits) -> SamplingParams:
    params: generation_pb2.SamplingParams = submit.sampling
    _check_numbers(params)
    _check_listed("sampling.logit_bias", params.logit_bias, limits)
    return SamplingParams(
        seed=params.seed,
        temperature=params.temperature if params.HasField("temperature") else 1.0,
        top_p=params.top_p if params.HasField("top_p") else 1.0,
        top_k=params.top_k,
        min_p=params.min_p,
        repetition_penalty=(
            params.repetition_penalty if params.HasField("repetition_penalty") else 1.0
        ),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=_logit_bias(params),
        bad_sequences=_bad_sequences(submit, limits),
        logprobs=submit.logprobs if submit.HasField("logprobs") else None,
        min_tokens=submit.stop.min_tokens,
        suppressed_ids=tuple(sorted(stop_ids)) if submit.stop.min_tokens else (),
    )


def _check_numbers(params: generation_pb2.SamplingParams) -> None:
    for name, (holds, wanted) in RANGES.items():
        value = getattr(params, name)
        if params.HasField(name) and not (math.isfinite(value) and holds(value)):  # type: ignore[arg-type]
            raise InvalidRequest(f"sampling.{name}", f"{value:g} is not {wanted}")


def _logit_bias(params: generation_pb2.SamplingParams) -> dict[int, float]:
    bias = dict(params.logit_bias)
    for token, amount in bias.items():
        if not amount < math.inf:
            raise InvalidRequest(
                "sampling.logit_bias", f"{amount:g} of id {token} is neither finite nor -inf"
            )
    return bias


def _bad_sequences(submit: model_pb2.Submit, limits: Limits) -> tuple[tuple[int, ...], ...]:
    field, sequences = "sampling.bad_words", submit.bad_words
    if len(sequences) > _MOST_BAD_SEQUENCES:
        raise InvalidRequest(field, f"{len(sequences)} are more than {_MOST_BAD_SEQUENCES}")
    count = sum(len(sequence.ids) for sequence in sequences)
    if count > _MOST_BAD_IDS:
        raise InvalidRequest(field, f"{count} ids in all are more than {_MOST_BAD_IDS}")
    for sequence in sequences:
        if not sequence.ids:
            raise InvalidRequest(field, "one has no ids")
        highest = max(sequence.ids)
        if highest >= limits.vocab_size:
            raise InvalidRequest(field, f"id {highest} is not below {limits.vocab_size}")
    return tuple(dict.fromkeys(tuple(sequence.ids) for sequence in sequences))
