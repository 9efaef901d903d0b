"""Messages of a chat as they are sent. A key or a part that cannot be sent is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from protos import generation_pb2 as pb
from triptych.client.options import Message, OptionError, Options
from triptych.client.values import as_json, listed, put, text

TEMPLATE_OPTIONS = ("tools", "template_arguments", "template_name", "continue_final_message")
"""Options that only a chat template reads."""

_TEXT_KEYS = ("name", "reasoning", "tool_call_id")
_KEYS = ("role", "content", *_TEXT_KEYS, "tool_calls")
_ALIASES = {"reasoning_content": "reasoning"}


def put_chat(chat: pb.Chat, messages: Sequence[Any], options: Options) -> None:
    """Fill `chat` with messages and with what their template reads.

    Raises:
        TypeError: something is no message.
        OptionError: a key or a value cannot be sent; the text names it and the message's place.
    """
    for place, message in enumerate(messages):
        chat.messages.append(_turn(f"messages[{place}]", message))
    if tools := listed("tools", options.tools):
        chat.tools_json = _mappings("tools", tools)
    arguments = options.template_arguments
    if arguments is not None and not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise OptionError(f"template_arguments: expected a mapping, not {kind}")
    if arguments:
        chat.template_arguments_json = as_json("template_arguments", arguments)
    if options.template_name is not None:
        put(chat, "template_name", options.template_name)
    put(chat, "continue_final_message", options.continue_final_message)


def _turn(place: str, message: Any) -> pb.ChatMessage:
    fields = _fields(place, message)
    content, calls = fields.get("content"), fields.get("tool_calls")
    turn = pb.ChatMessage(role=_text(f"{place}.role", fields["role"]))
    for key in _TEXT_KEYS:
        if fields.get(key) is not None:
            setattr(turn, key, _text(f"{place}.{key}", fields[key]))
    if calls is not None and (several := listed(f"prompt: {place}.tool_calls", calls)):
        turn.tool_calls_json = _mappings(f"prompt: {place}.tool_calls", several)
    if content is not None:
        _put_content(turn, f"{place}.content", content)
    elif not turn.tool_calls_json and not turn.reasoning:
        raise TypeError(f"{place}: content is None; a chat message needs a role and a content")
    return turn


def _fields(place: str, message: Any) -> dict[str, Any]:
    """Values of a message, by the names that are sent."""
    if isinstance(message, Message):
        return {one.name: getattr(message, one.name) for one in dataclasses.fields(message)}
    if not isinstance(message, Mapping):
        raise TypeError(f"{place}: expected a message, not {type(message).__name__}")
    fields: dict[str, Any] = {}
    for key, value in message.items():
        name = _ALIASES.get(key, key)
        if name not in _KEYS:
            known = ", ".join(_KEYS)
            raise OptionError(f"prompt: {place} has {key!r}, which cannot be sent; only {known}")
        if name in fields:
            raise OptionError(f"prompt: {place} has both {name!r} and another name of it")
        fields[name] = value
    says = fields.keys() & {"content", "tool_calls", "reasoning"}
    if "role" not in fields or not says:
        raise TypeError(f"{place}: a chat message needs a role and a content")
    return fields


def _put_content(turn: pb.ChatMessage, place: str, content: Any) -> None:
    if isinstance(content, str):
        turn.content = _text(place, content)
        return
    if not isinstance(content, (list, tuple)):
        kind = type(content).__name__
        raise OptionError(f"prompt: {place}: expected text or a list of its parts, not {kind}")
    if not content:
        raise OptionError(f"prompt: {place}: has no parts")
    turn.parts.extend(_part(f"{place}[{number}]", part) for number, part in enumerate(content))


def _part(place: str, part: Any) -> str:
    if not isinstance(part, Mapping):
        return _text(place, part)
    if part.get("type", "text") != "text":
        raise OptionError(f"prompt: {place}: type {part['type']!r} cannot be sent; only text")
    for key in part:
        if key not in ("type", "text"):
            raise OptionError(f"prompt: {place} has {key!r}, which cannot be sent")
    return _text(f"{place}.text", part.get("text"))


def _mappings(name: str, values: list[Any]) -> str:
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            raise OptionError(f"{name}[{number}]: expected a mapping, not {kind}")
    return as_json(name, values)


def _text(place: str, value: Any) -> str:
    """A message's text; bytes of another encoding come in as halves of surrogate pairs."""
    if not isinstance(value, str):
        raise OptionError(f"prompt: {place}: expected text, not {type(value).__name__}")
    try:
        return text("prompt", value)
    except OptionError as error:
        raise OptionError(f"{error} of {place}") from error
