"""From a Submit message to what the engine runs; a submit that cannot run is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chassis.errors import InvalidRequest
from chassis.shared_file import PeerFiles
from model_svc.draws import SamplingSpec
from model_svc.request import EarlierOutput, RequestSpec
from protos import generation_pb2, model_pb2

_ID = np.dtype("<i4")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request must fit.

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
        InvalidRequest: the prompt or what was produced of it cannot be read or does not fit.
    """
    prompt = _prompt(submit, arenas)
    if not len(prompt):
        raise InvalidRequest("prompt", "is empty")
    _check_ids("prompt", prompt, limits)
    wanted = len(prompt) + submit.stop.max_tokens
    if wanted > limits.tokens:
        raise InvalidRequest("stop.max_tokens", f"{wanted} tokens wanted, {limits.tokens} fit")
    candidates = submit.sampling.n or 1
    stop_ids = frozenset(submit.stop.token_ids)
    if not submit.stop.ignore_eos:
        stop_ids |= limits.eos_token_ids
    return RequestSpec(
        handle=submit.handle,
        attempt=submit.attempt,
        request_id=submit.request_id,
        prompt=prompt,
        sampling=_sampling(submit, stop_ids),
        candidates=candidates,
        max_tokens=submit.stop.max_tokens,
        stop_ids=stop_ids,
        prompt_logprobs=submit.prompt_logprobs,
        priority=submit.priority,
        progress=_progress(submit, candidates, limits),
    )


def _prompt(submit: model_pb2.Submit, arenas: PeerFiles) -> npt.NDArray[np.int32]:
    if submit.WhichOneof("prompt") == "ids":
        return _ids("ids", submit.ids)
    try:
        return _ids("slab", arenas.view(submit.slab))
    except (KeyError, ValueError) as error:
        raise InvalidRequest("slab", f"cannot be read: {error}") from error


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
    if len(ids) and (ids.min() < 0 or ids.max() >= limits.vocab_size):
        raise InvalidRequest(field, f"has ids outside 0 to {limits.vocab_size - 1}")


def _sampling(submit: model_pb2.Submit, stop_ids: Iterable[int]) -> SamplingSpec:
    params: generation_pb2.SamplingParams = submit.sampling
    return SamplingSpec(
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
        logit_bias=dict(params.logit_bias),
        logprobs=submit.logprobs if submit.HasField("logprobs") else None,
        min_tokens=submit.stop.min_tokens,
        suppressed_ids=tuple(sorted(stop_ids)) if submit.stop.min_tokens else (),
    )
