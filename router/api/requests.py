"""Requests of `triptych.v1` as the core's requests, and the core's errors with its paths.

The parts of the core's requests are named as those of `GenerateRequest`; only the prompt has
another path for each of its kinds.
"""

from __future__ import annotations

from chassis.errors import InvalidRequest, ServiceError
from protos import generation_pb2
from router.links.messages import sampling_params
from router.requests.generation_request import (
    ChatPrompt,
    GenerationRequest,
    IdsPrompt,
    TextPrompt,
)
from router.requests.parameters import OutputOptions, SamplingParams, StopConditions
from router.requests.validation import PROMPT

Options = generation_pb2.OutputOptions | generation_pb2.DetokenizeRequest


def generation_request(sent: generation_pb2.GenerateRequest) -> GenerationRequest:
    """The core's request.

    Ids of a prompt are a view of `sent`; everything else is copied.

    Raises:
        InvalidRequest: there is no prompt.
    """
    kind = sent.WhichOneof("prompt")
    return GenerationRequest(
        IdsPrompt(sent.token_ids.ids) if kind == "token_ids" else text_prompt(sent),
        sampling_params(sent.sampling) if sent.HasField("sampling") else SamplingParams(),
        _stop(sent.stop) if sent.HasField("stop") else StopConditions(),
        _output(sent.output) if sent.HasField("output") else OutputOptions(),
        model=sent.model,
        priority=sent.priority,
        add_special_tokens=special_tokens(sent),
        truncate_prompt_tokens=sent.truncate_prompt_tokens,
    )


def text_prompt(
    sent: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest,
) -> TextPrompt | ChatPrompt:
    """The text or chat of a request.

    Raises:
        InvalidRequest: there is none.
    """
    match sent.WhichOneof("prompt"):
        case "text":
            return TextPrompt(sent.text)
        case "chat":
            if not sent.chat.messages:
                raise InvalidRequest("chat.messages", "there are none")
            return ChatPrompt(sent.chat.SerializeToString(), len(sent.chat.messages))
        case _:
            raise InvalidRequest("prompt", "missing")


def special_tokens(
    sent: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest,
) -> bool | None:
    """The choice of special tokens for a prompt; None: not set."""
    return sent.add_special_tokens if sent.HasField("add_special_tokens") else None


def skips_special_tokens(options: Options) -> bool:
    """True if a text leaves out special tokens, as by default."""
    return options.skip_special_tokens if options.HasField("skip_special_tokens") else True


def prompt_path(
    sent: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest,
) -> str:
    """The path of the prompt in a request."""
    kind = sent.WhichOneof("prompt")
    return "token_ids.ids" if kind == "token_ids" else kind or "prompt"


def with_path(error: ServiceError, path: str) -> ServiceError:
    """`error` with `path` for the prompt, where it is about the prompt."""
    if isinstance(error, InvalidRequest) and error.field == PROMPT:
        return InvalidRequest(path, error.description)
    return error


def _stop(sent: generation_pb2.StopConditions) -> StopConditions:
    values = {field.name: value for field, value in sent.ListFields()}
    for name in ("strings", "token_ids"):
        if name in values:
            values[name] = tuple(values[name])
    return StopConditions(**values)


def _output(sent: generation_pb2.OutputOptions) -> OutputOptions:
    return OutputOptions(**{field.name: value for field, value in sent.ListFields()})
