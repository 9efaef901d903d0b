"""Prompts and options as request messages.

A value that no message can carry (a negative count, a seed of 65 bits) is an `OptionError` that
names it; what only the server can judge is left to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage

from protos import generation_pb2 as pb
from triptych.client.options import Message, Options, Prompt

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n",
)
_STOPPING = ("max_tokens", "min_tokens", "ignore_eos", "include_matched")
_OUTPUT = ("token_ids", "logprobs", "prompt_logprobs", "echo", "skip_special_tokens")

T = TypeVar("T", pb.GenerateRequest, pb.TokenizeRequest)


class OptionError(ValueError):
    """An option's value cannot be sent; the message begins with the option's name."""


def generate_request(prompt: Prompt, options: Options) -> pb.GenerateRequest:
    """The request that continues `prompt`.

    Raises:
        TypeError: the prompt is none of the kinds a prompt may be.
        OptionError: an option cannot be sent.
    """
    request = pb.GenerateRequest()
    _put_prompt(request, prompt, options)
    _put(request, options, ("model", "request_id", "priority", "add_special_tokens"))
    _put(request.sampling, options, _SAMPLING)
    _put(request.stop, options, _STOPPING)
    _put(request.output, options, _OUTPUT)
    stop = options.stop
    _extend("stop", request.stop.strings, [stop] if isinstance(stop, str) else stop)
    _extend("stop_token_ids", request.stop.token_ids, options.stop_token_ids)
    try:
        request.sampling.logit_bias.update(options.logit_bias)
    except (TypeError, ValueError) as error:
        raise OptionError(f"logit_bias: {error}") from error
    return request


def tokenize_request(prompt: str | Sequence[Any], options: Options) -> pb.TokenizeRequest:
    """The request that tokenises a text or a chat.

    Raises:
        TypeError: the prompt is neither.
    """
    if _holds_ids(prompt):
        raise TypeError("these are token ids already; give a text or the messages of a chat")
    request = pb.TokenizeRequest()
    _put_prompt(request, prompt, options)
    _put(request, options, ("model", "add_special_tokens"))
    return request


def detokenize_request(ids: Iterable[int], options: Options) -> pb.DetokenizeRequest:
    """The request that turns ids into text."""
    request = pb.DetokenizeRequest()
    _extend("ids", request.token_ids, ids)
    _put(request, options, ("model", "skip_special_tokens"))
    return request


def _put(message: ProtoMessage, options: Options, names: Iterable[str]) -> None:
    """Set the fields of `message` that bear the names of options, where they are not None."""
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        try:
            setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{name}: {error}") from error


def _extend(name: str, field: Any, values: Iterable[Any]) -> None:
    try:
        field.extend(values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name}: {error}") from error


def _holds_ids(prompt: Any) -> bool:
    """Whether a prompt is token ids; an empty list is, and the server refuses it."""
    if isinstance(prompt, str):
        return False
    return len(prompt) == 0 or not isinstance(prompt[0], (Message, Mapping))


def _put_prompt(request: T, prompt: Prompt, options: Options) -> None:
    if isinstance(prompt, str):
        request.text = _utf8("prompt", prompt)
    elif isinstance(prompt, (bytes, Mapping)) or not hasattr(prompt, "__len__"):
        kind = type(prompt).__name__
        raise TypeError(f"a prompt is text, token ids or the messages of a chat, not {kind}")
    elif isinstance(request, pb.GenerateRequest) and _holds_ids(prompt):
        request.token_ids.SetInParent()
        _extend("prompt", request.token_ids.ids, prompt)
    else:
        _put_chat(request.chat, prompt, options)  # type: ignore[arg-type]


def _put_chat(
    chat: pb.Chat, messages: Sequence[Message | Mapping[str, str]], options: Options
) -> None:
    for message in messages:
        chat.messages.append(_turn(message))
    if options.tools:
        chat.tools_json = json.dumps(list(options.tools))
    if options.template_arguments:
        chat.template_arguments.update(dict(options.template_arguments))
    chat.continue_final_message = options.continue_final_message


def _turn(message: Message | Mapping[str, str]) -> pb.ChatMessage:
    if isinstance(message, Message):
        return pb.ChatMessage(role=message.role, content=_utf8("prompt", message.content))
    if not isinstance(message, Mapping) or not message.keys() >= {"role", "content"}:
        raise TypeError("a chat message needs a role and a content")
    return pb.ChatMessage(role=message["role"], content=_utf8("prompt", message["content"]))


def _utf8(name: str, text: str) -> str:
    """`text` as it is, if it can be sent; bytes of another encoding come in as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{name}: not UTF-8 at character {error.start + 1}") from error
    return text
