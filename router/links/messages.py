"""Conversion between the core's types and the messages of a replica's services."""

from __future__ import annotations

from collections.abc import Sequence

from protos import detokenizer_pb2, generation_pb2, model_pb2
from router.requests.parameters import SamplingParams
from router.requests.request import RouterRequest
from router.requests.results import Delta, Finish, Logprobs, ModelInfo
from router.requests.validation import Plan

TAIL_IDS = 16  # the detokenizer needs enough of the prompt to spell the first output token

_FINISH = tuple(Finish)  # by number


def registration(request: RouterRequest) -> detokenizer_pb2.Register:
    """The registration of a request, with all that a detokenizer needs to go on with it.

    Wherever rows of it may have come before, the output delivered so far is named, even if there is
    none: the detokenizer then asks for the rows after it.
    """
    plan = request.plan
    output = plan.output
    register = detokenizer_pb2.Register(
        handle=request.handle,
        attempt=request.attempt,
        request_id=request.request_id,
        prompt_tail=request.prompt.tail(TAIL_IDS),
        candidates=plan.candidates,
        stop=_stop(plan),
        output=generation_pb2.OutputOptions(
            token_ids=output.token_ids,
            logprobs=output.logprobs,
            prompt_logprobs=request.awaits_prompt,
            echo=output.echo,
            skip_special_tokens=output.skip_special_tokens,
        ),
    )
    if request.resumed:
        for index, candidate in enumerate(request.candidates):
            register.delivered.add(
                candidate=index,
                ids=candidate.ids.tobytes(),
                text_length=candidate.text_length,
                finished=candidate.finished,
            )
    return register


def submission(request: RouterRequest) -> model_pb2.Submit:
    """The submit of a request without its prompt, with all that a model needs to go on with it."""
    plan = request.plan
    submit = model_pb2.Submit(
        handle=request.handle,
        attempt=request.attempt,
        request_id=request.request_id,
        sampling=sampling_message(plan.sampling, plan.seed, plan.candidates),
        stop=_stop(plan),
        logprobs=plan.output.logprobs,
        prompt_logprobs=request.awaits_prompt,
        priority=plan.priority,
    )
    for ids in request.prompt.bad_words:
        submit.bad_words.add(ids=ids)
    if request.all_ended:  # only scores of the prompt are still missing
        submit.sampling.n = 1
        submit.stop.max_tokens = 0
    elif request.resumed:
        for index, candidate in enumerate(request.candidates):
            submit.progress.add(
                candidate=index, ids=candidate.ids.tobytes(), finished=candidate.finished
            )
    return submit


def sampling_message(
    sampling: SamplingParams, seed: int | None, n: int | None
) -> generation_pb2.SamplingParams:
    """Sampling parameters with `seed` and `n`; without bad words, which reach a model as ids."""
    return generation_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=seed,
        logit_bias=sampling.logit_bias or None,
        n=n,
    )


def _stop(plan: Plan) -> generation_pb2.StopConditions:
    stop = plan.stop
    return generation_pb2.StopConditions(
        max_tokens=plan.max_tokens,
        min_tokens=stop.min_tokens or None,
        strings=stop.strings or None,
        token_ids=stop.token_ids or None,
        ignore_eos=stop.ignore_eos,
        include_matched=stop.include_matched,
    )


def delta_of(message: detokenizer_pb2.TextDelta) -> Delta:
    """A delta, with copies of everything in `message`, which is a part of a whole step's."""
    delta = Delta(
        message.handle,
        message.attempt,
        message.candidate,
        message.position,
        message.token_ids[:],
        message.text,
    )
    if reason := message.finish_reason:
        delta.finish = _FINISH[reason]
        matched = message.WhichOneof("matched")
        if matched == "matched_stop":
            delta.matched_stop = message.matched_stop
        elif matched == "matched_token_id":
            delta.matched_token_id = message.matched_token_id
    if scores := message.logprobs:
        delta.logprobs = _copied(scores)
    if scores := message.prompt_logprobs:
        delta.prompt_logprobs = _copied(scores)
        delta.prompt_position = message.prompt_position
    return delta


def _copied(logprobs: Sequence[generation_pb2.TokenLogprob]) -> Logprobs:
    """The same by themselves: a part of a message keeps all of it."""
    copies = detokenizer_pb2.TextDelta().logprobs
    copies.extend(logprobs)
    return copies


def model_info(model: generation_pb2.Model) -> ModelInfo:
    """The model that a replica describes."""
    return ModelInfo(
        name=model.name,
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        architecture=model.architecture,
        parameters=model.parameters,
        dtype=model.dtype,
        version=model.version,
        defaults=sampling_params(model.generation_defaults)
        if model.HasField("generation_defaults")
        else None,
    )


def sampling_params(message: generation_pb2.SamplingParams) -> SamplingParams:
    """Sampling parameters, with copies of what is repeated."""
    values = {field.name: value for field, value in message.ListFields()}
    if "logit_bias" in values:
        values["logit_bias"] = dict(values["logit_bias"])
    if "bad_words" in values:
        values["bad_words"] = tuple(values["bad_words"])
    return SamplingParams(**values)
