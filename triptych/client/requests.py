"""Prompts and options as request messages.

A value that no message can carry (a negative count, a seed of 65 bits) is an `OptionError` that
names it; what only the server can judge is left to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage

from protos import generation_pb2 as pb
from triptych.client.chats import TEMPLATE_OPTIONS, put_chat
from triptych.client.options import Message, OptionError, Options, Prompt
from triptych.client.values import extend, put, text, texts

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

_ALWAYS = ("model", "timeout", "retry_s")
TOKENIZE = frozenset((*_ALWAYS, "add_special_tokens", *TEMPLATE_OPTIONS))
"""Options that tokenising takes."""
DETOKENIZE = frozenset((*_ALWAYS, "skip_special_tokens"))
"""Options that detokenising takes."""

T = TypeVar("T", pb.GenerateRequest, pb.TokenizeRequest)


def check_names(changes: Iterable[str], taken: frozenset[str]) -> None:
    """See to it that no keyword is lost.

    Raises:
        OptionError: one of `changes` is not `taken`.
    """
    for name in changes:
        if name not in taken:
            raise OptionError(f"{name}: cannot be sent here; only {', '.join(sorted(taken))}")


def generate_request(prompt: Prompt, options: Options) -> pb.GenerateRequest:
    """The request that continues `prompt`.

    Raises:
        TypeError: the prompt is none of the kinds a prompt may be.
        OptionError: an option cannot be sent.
    """
    request = pb.GenerateRequest()
    _put_prompt(request, prompt, options)
    names = ("model", "request_id", "priority", "add_special_tokens", "truncate_prompt_tokens")
    _put(request, options, names)
    _put(request.sampling, options, _SAMPLING)
    _put(request.stop, options, _STOPPING)
    _put(request.output, options, _OUTPUT)
    request.stop.strings.extend(texts("stop", options.stop))
    extend("stop_token_ids", request.stop.token_ids, options.stop_token_ids)
    if words := texts("bad_words", options.bad_words):
        request.sampling.bad_words.extend(words)
    if options.logit_bias:
        _put_bias(request.sampling, options.logit_bias)
    return request


def tokenize_request(prompt: str | Sequence[Any], options: Options) -> pb.TokenizeRequest:
    """The request that tokenises a text or a chat.

    Raises:
        TypeError: the prompt is neither.
        OptionError: an option cannot be sent.
    """
    request = pb.TokenizeRequest()
    _put_prompt(request, prompt, options)
    _put(request, options, ("model", "add_special_tokens"))
    return request


def detokenize_request(ids: Iterable[int], options: Options) -> pb.DetokenizeRequest:
    """The request that turns ids into text.

    Raises:
        OptionError: something is no id, or an option cannot be sent.
    """
    request = pb.DetokenizeRequest()
    extend("ids", request.token_ids, ids)
    _put(request, options, ("model", "skip_special_tokens"))
    return request


def _put(message: ProtoMessage, options: Options, names: Iterable[str]) -> None:
    """Set the fields of `message` that bear the names of options, where they are not None."""
    for name in names:
        value = getattr(options, name)
        if value is not None:
            put(message, name, value)


def _put_bias(sampling: pb.SamplingParams, bias: Mapping[int, float]) -> None:
    if not isinstance(bias, Mapping):
        raise OptionError(f"logit_bias: expected a mapping, not {type(bias).__name__}")
    if bool in set(map(type, (*bias.keys(), *bias.values()))):
        raise OptionError("logit_bias: expected token ids and numbers, not True or False")
    try:
        sampling.logit_bias.update(bias)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"logit_bias: {error}") from error


def _put_prompt(request: T, prompt: Prompt, options: Options) -> None:
    """Put the prompt in, as what its first item shows it to be; empty lists are token ids."""
    if isinstance(prompt, str):
        _refuse_template_options(options, "text")
        request.text = text("prompt", prompt)
        return
    if isinstance(prompt, (bytes, bytearray, Mapping)) or not hasattr(prompt, "__getitem__"):
        kind = type(prompt).__name__
        raise TypeError(f"a prompt is text, token ids or the messages of a chat, not {kind}")
    first = prompt[0] if len(prompt) else None
    if isinstance(first, (Message, Mapping)):
        put_chat(request.chat, prompt, options)
    elif isinstance(first, (str, bytes)):
        raise TypeError("a prompt is text, token ids or the messages of a chat, not several texts")
    elif isinstance(request, pb.TokenizeRequest):
        raise TypeError("these are token ids already; give a text or the messages of a chat")
    else:
        _refuse_template_options(options, "token ids")
        request.token_ids.SetInParent()
        extend("prompt", request.token_ids.ids, prompt)


def _refuse_template_options(options: Options, kind: str) -> None:
    """No chat template reads the prompt, so what is meant for one would be lost."""
    for name in TEMPLATE_OPTIONS:
        if getattr(options, name):
            raise OptionError(f"{name}: is for a chat's template, and the prompt is {kind}")
