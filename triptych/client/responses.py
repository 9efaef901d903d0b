"""Reply messages as results."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack
from typing import Any

from protos import generation_pb2 as pb
from triptych.client import results

_REASONS = {
    pb.FINISH_REASON_STOP: results.FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: results.FinishReason.LENGTH,
}


def completion(reply: pb.GenerateResponse) -> results.Completion:
    """A whole answer."""
    return results.Completion(
        request_id=reply.request_id,
        candidates=tuple(_candidate(one) for one in reply.candidates),
        usage=_usage(reply.usage),
        prompt=_prompt(reply.prompt) if reply.HasField("prompt") else None,
    )


def delta(reply: pb.GenerateStreamResponse) -> results.Delta:
    """One message of a stream."""
    return results.Delta(
        request_id=reply.request_id,
        candidates=tuple(_candidate(one) for one in reply.deltas),
        usage=_usage(reply.usage) if reply.HasField("usage") else None,
        prompt=_prompt(reply.prompt) if reply.HasField("prompt") else None,
    )


def tokens(reply: pb.TokenizeResponse) -> results.Tokens:
    """Token ids and their bytes."""
    return results.Tokens(ids=tuple(reply.token_ids), pieces=tuple(reply.tokens))


def models(reply: pb.ListModelsResponse) -> tuple[results.Model, ...]:
    """The models served."""
    return tuple(
        results.Model(
            name=one.name,
            architecture=one.architecture,
            context_length=one.context_length,
            vocab_size=one.vocab_size,
            parameters=one.parameters,
            dtype=one.dtype,
            version=one.version,
            generation_defaults=_sampling_options(one.generation_defaults),
        )
        for one in reply.models
    )


def _sampling_options(sampling: pb.SamplingParams) -> dict[str, Any]:
    """Fields that are set, by their names in `Options`."""
    found: dict[str, Any] = {}
    for field, value in sampling.ListFields():
        if isinstance(value, (int, float)):
            found[field.name] = _shortest(value) if isinstance(value, float) else value
        else:
            found[field.name] = dict(value) if field.name == "logit_bias" else tuple(value)
    return found


def _shortest(value: float) -> float:
    """The number with the fewest digits that is the same in 32 bits: 0.6, not 0.6000000238."""
    wire = pack("f", value)
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 9))
    return next((one for one in candidates if pack("f", one) == wire), value)


def load(reply: pb.GetLoadResponse) -> results.Load:
    """Load of the deployment."""
    return results.Load(
        queued=reply.queued,
        running=reply.running,
        kv_slots_used=reply.kv_slots_used,
        kv_slots_total=reply.kv_slots_total,
        replicas=tuple(_replica(one) for one in reply.replicas),
    )


def _replica(one: pb.Replica) -> results.ReplicaLoad:
    return results.ReplicaLoad(
        address=one.address,
        ready=one.ready,
        running=one.running,
        kv_slots_used=one.kv_slots_used,
        kv_slots_total=one.kv_slots_total,
        kv_slots_cached=one.kv_slots_cached,
    )


def _candidate(one: pb.Candidate) -> results.CandidateText:
    matched = one.WhichOneof("matched")
    return results.CandidateText(
        index=one.index,
        text=one.text,
        token_ids=tuple(one.token_ids),
        finish_reason=_REASONS.get(one.finish_reason),
        matched_stop=one.matched_stop if matched == "matched_stop" else None,
        matched_token_id=one.matched_token_id if matched == "matched_token_id" else None,
        logprobs=_logprobs(one.logprobs),
    )


def _logprobs(entries: Iterable[pb.TokenLogprob]) -> tuple[results.TokenLogprob, ...]:
    return tuple(
        results.TokenLogprob(one.token_id, one.token, one.logprob, _logprobs(one.top))
        for one in entries
    )


def _usage(one: pb.Usage) -> results.Usage:
    return results.Usage(one.prompt_tokens, one.completion_tokens, one.cached_prompt_tokens)


def _prompt(one: pb.Prompt) -> results.PromptEcho:
    return results.PromptEcho(tuple(one.token_ids), _logprobs(one.logprobs), one.text)
