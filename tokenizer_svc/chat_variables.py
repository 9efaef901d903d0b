"""A chat as the variables of a template: messages, tools and further arguments.

Values are plain JSON ones, in one order in every process. What no template could write as text is
refused under its own field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from google.protobuf import struct_pb2

from chassis.errors import InvalidRequest
from protos import generation_pb2
from tokenizer_svc.message_form import MessageForm

MOST_NESTED = 100  # objects and arrays inside each other; protobuf's own bound

_OWN_VARIABLES = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"}
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXACT = 1 << 53  # above it, a double may stand for several integers
_PART_SEPARATOR = "\n"


def read_tools(chat: generation_pb2.Chat) -> list[Any] | None:
    """The template's `tools`; None where the chat brings none.

    Raises:
        InvalidRequest: they are not a JSON array.
    """
    if not chat.tools_json:
        return None
    return _parse_array("chat.tools_json", chat.tools_json)


def read_arguments(chat: generation_pb2.Chat, own_functions: Collection[str]) -> dict[str, Any]:
    """Further template variables, in the client's order, or by name for a Struct.

    Args:
        own_functions: names that a template's own functions have.

    Raises:
        InvalidRequest: they are malformed, or replace what is not theirs.
    """
    field = "chat.template_arguments"
    arguments = _struct_arguments(chat.template_arguments)
    if chat.template_arguments_json:
        if chat.HasField("template_arguments"):
            raise InvalidRequest(
                "chat.template_arguments_json", "is not for use with chat.template_arguments"
            )
        field = "chat.template_arguments_json"
        arguments = parse_json(field, chat.template_arguments_json)
        if not isinstance(arguments, dict):
            raise InvalidRequest(field, "is not a JSON object")
    for names, owner in (
        (_OWN_VARIABLES, "set by the request's own fields"),
        (own_functions, "the template's own functions"),
    ):
        if taken := sorted(arguments.keys() & set(names)):
            raise InvalidRequest(field, f"{', '.join(taken)}: {owner}")
    _check_documents(field, arguments.get("documents"))
    return arguments


def read_messages(chat: generation_pb2.Chat, form: MessageForm) -> list[dict[str, Any]]:
    """The template's `messages`; only what is set becomes a key.

    Raises:
        InvalidRequest: a message is malformed.
    """
    return [
        _read_message(f"chat.messages[{i}]", message, form)
        for i, message in enumerate(chat.messages)
    ]


def mark_end(message: dict[str, Any], mark: str) -> str | None:
    """Add `mark` where a message is to be continued; return the text before it.

    That is its content or, where it has only thought, its reasoning. None: it has no text, as where
    it only calls tools.
    """
    content = message.get("content")
    if isinstance(content, list):
        part = content[-1]
        part["text"] += mark
        return str(part["text"]).removesuffix(mark)
    keys = ["content"]
    if not content and "reasoning_content" in message:
        keys = ["thinking", "reasoning_content"]
    text = message.get(keys[0])
    if text is None or (not text and "tool_calls" in message):
        return None
    for key in keys:
        message[key] += mark
    return str(text)


def parse_json(field: str, text: str) -> Any:
    """Read JSON whose every value can be written as text again.

    Raises:
        InvalidRequest: it is malformed, nested too deeply, or holds a number that is not finite or
            half a surrogate pair.
    """

    def refuse(reason: object) -> NoReturn:
        raise InvalidRequest(field, f"is not JSON: {reason}")

    def read_float(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(f"{digits[:20]} is no finite number")

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=read_float)
    except json.JSONDecodeError as error:
        refuse(error)
    except RecursionError:
        refuse(f"more than {MOST_NESTED} levels are nested")
    except ValueError:
        refuse("an integer has too many digits")
    if _depth(value) > MOST_NESTED:
        refuse(f"more than {MOST_NESTED} levels are nested")
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse("half a surrogate pair is no character")
    return value


def _parse_array(field: str, text: str) -> list[Any]:
    value = parse_json(field, text)
    if not isinstance(value, list):
        raise InvalidRequest(field, "is not a JSON array")
    return value


def _depth(value: Any) -> int:
    """Count the levels of nested objects and arrays."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in _children(item)]
    return depth


def _children(item: dict[str, Any] | list[Any]) -> Collection[Any]:
    return item.values() if isinstance(item, dict) else item


def _struct_arguments(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _struct_value(struct.fields[name]) for name in sorted(struct.fields)}


def _struct_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "struct_value":
        return _struct_arguments(value.struct_value)
    if kind == "list_value":
        return [_struct_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _number(number: float) -> float | int:
    """Restore an integer that a Struct, which has only doubles, made a double."""
    if not math.isfinite(number):
        raise InvalidRequest("chat.template_arguments", f"{number} is no finite number")
    whole = number.is_integer() and abs(number) <= _EXACT
    # Minus zero is no integer.
    return int(number) if whole and (number or math.copysign(1, number) > 0) else number


def _check_documents(field: str, documents: Any) -> None:
    """Refuse documents that are not as transformers documents them."""
    if documents is None:
        return
    if not isinstance(documents, list) or not all(isinstance(each, dict) for each in documents):
        raise InvalidRequest(field, "documents is not a list of objects")


def _read_message(
    field: str, message: generation_pb2.ChatMessage, form: MessageForm
) -> dict[str, Any]:
    if message.parts and message.content:
        raise InvalidRequest(f"{field}.parts", f"is not for use with {field}.content")
    read: dict[str, Any] = {}
    if message.reasoning:
        read["thinking"] = message.reasoning  # the name that gpt-oss reads; first, as transformers
    read["role"] = message.role
    read.update(_content(message, form))
    if message.name:
        read["name"] = message.name
    if message.reasoning:
        read["reasoning_content"] = message.reasoning
    if message.tool_calls_json:
        calls = f"{field}.tool_calls_json"
        read["tool_calls"] = list(_read_calls(calls, message.tool_calls_json, form))
    if message.tool_call_id:
        read["tool_call_id"] = message.tool_call_id
    return read


def _content(message: generation_pb2.ChatMessage, form: MessageForm) -> dict[str, Any]:
    if message.parts and form.lists_parts:
        return {"content": [{"type": "text", "text": text} for text in message.parts]}
    if message.content or message.parts:
        return {"content": message.content or _PART_SEPARATOR.join(message.parts)}
    if message.tool_calls_json and form.tests_none:
        return {"content": None}
    if message.tool_calls_json and form.tests_presence:
        return {}
    return {"content": ""}


def _read_calls(field: str, text: str, form: MessageForm) -> Iterator[dict[str, Any]]:
    for call in _parse_array(field, text):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise InvalidRequest(field, "is not an array of tool calls")
        arguments = function.get("arguments")
        if isinstance(arguments, str) and not form.joins_arguments:
            function["arguments"] = parse_json(field, arguments) if arguments else {}
        elif form.joins_arguments and isinstance(arguments, dict | list):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        yield call
