"""A chat becomes plain JSON values in one order, or a refusal under its own field."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import struct_pb2

from chassis.errors import InvalidRequest
from protos import generation_pb2
from tokenizer_svc.chat_variables import (
    MOST_NESTED,
    mark_end,
    read_arguments,
    read_messages,
    read_tools,
)
from tokenizer_svc.message_form import MessageForm

PLAIN = MessageForm()
CALL = {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [2.0]}}}
NOT_JSON = [
    "{",
    "[NaN]",
    "[-Infinity]",
    '[{"x": [1e999]}]',
    r'["\ud83d"]',
    r'[{"\uDE00": 1}]',
    "[" + "9" * 5000 + "]",
    "[" * 100_000,
    "[" * 150 + "]" * 150,
]


def message(role: str = "assistant", **fields: Any) -> generation_pb2.ChatMessage:
    return generation_pb2.ChatMessage(role=role, **fields)


def read(form: MessageForm = PLAIN, **fields: Any) -> dict[str, Any]:
    (only,) = read_messages(generation_pb2.Chat(messages=[message(**fields)]), form)
    return only


def struct(**values: Any) -> struct_pb2.Struct:
    filled = struct_pb2.Struct()
    filled.update(values)
    return filled


def from_struct(**values: Any) -> dict[str, Any]:
    return read_arguments(generation_pb2.Chat(template_arguments=struct(**values)), ())


def from_json(text: str) -> dict[str, Any]:
    return read_arguments(generation_pb2.Chat(template_arguments_json=text), ())


def refused_field(call: Any, *given: Any, **fields: Any) -> str:
    with pytest.raises(InvalidRequest) as error:
        call(*given, **fields)
    error.value.description.encode()
    return error.value.field


def test_only_what_is_set_becomes_a_key() -> None:
    assert read(content="x") == {"role": "assistant", "content": "x"}
    assert read() == {"role": "assistant", "content": ""}
    assert list(read(role="tool", content="4", name="f", tool_call_id="7")) == [
        *("role", "content", "name", "tool_call_id"),
    ]


def test_reasoning_has_the_names_that_templates_read() -> None:
    told = read(content="x", reasoning="because")
    assert told["reasoning_content"] == told["thinking"] == "because"
    assert next(iter(told)) == "thinking"


@pytest.mark.parametrize("arguments", [{"b": 1, "a": 2.0}, [], 3])
def test_tool_arguments_that_are_strings_are_parsed(arguments: object) -> None:
    calls = [{"function": {"name": "f", "arguments": json.dumps(arguments)}}, {"arguments": "[1]"}]
    (first, second) = read(tool_calls_json=json.dumps(calls))["tool_calls"]
    assert first["function"]["arguments"] == arguments
    assert second["arguments"] == [1]


def test_empty_tool_arguments_are_an_empty_object() -> None:
    calls = [{"function": {"name": "f", "arguments": ""}}, {"function": {"name": "g"}}]
    (first, second) = read(tool_calls_json=json.dumps(calls))["tool_calls"]
    assert first["function"]["arguments"] == {}
    assert "arguments" not in second["function"]


def test_tool_arguments_are_strings_where_the_template_joins_them() -> None:
    form = MessageForm(joins_arguments=True)
    given = [CALL, {"function": {"name": "f", "arguments": '{"b":1}'}}]
    (first, second) = read(form, tool_calls_json=json.dumps(given))["tool_calls"]
    assert first["function"]["arguments"] == '{"b": 1, "a": [2.0]}'
    assert second["function"]["arguments"] == '{"b":1}'


def test_a_call_without_text_has_the_content_that_its_template_expects() -> None:
    calls = json.dumps([CALL])
    assert read(tool_calls_json=calls)["content"] == ""
    assert "content" not in read(MessageForm(tests_presence=True), tool_calls_json=calls)
    assert read(MessageForm(tests_none=True), tool_calls_json=calls)["content"] is None
    assert read(tool_calls_json=calls, content="x")["content"] == "x"


def test_parts_are_a_list_where_the_template_takes_one() -> None:
    parts = ["a", "b"]
    assert read(MessageForm(lists_parts=True), parts=parts)["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    assert read(parts=parts)["content"] == "a\nb"


def test_content_and_parts_exclude_each_other() -> None:
    assert refused_field(read, content="x", parts=["y"]) == "chat.messages[0].parts"


@pytest.mark.parametrize("text", NOT_JSON)
def test_json_that_no_template_could_write_is_refused_by_field(text: str) -> None:
    tools = generation_pb2.Chat(tools_json=text)
    assert refused_field(read_tools, tools) == "chat.tools_json"
    named = f'{{"x": {text}}}'
    assert refused_field(from_json, named) == "chat.template_arguments_json"
    calls = f'[{{"function": {{"name": "f", "arguments": {{"x": {text}}}}}}}]'
    assert refused_field(read, tool_calls_json=calls) == "chat.messages[0].tool_calls_json"
    inner = json.dumps([{"function": {"name": "f", "arguments": text}}])
    assert refused_field(read, tool_calls_json=inner) == "chat.messages[0].tool_calls_json"


@pytest.mark.parametrize("text", ["{}", "3", "[3]", '["f"]', '[{"function": "f"}]', "null"])
def test_tool_calls_that_are_none_are_refused(text: str) -> None:
    assert refused_field(read, tool_calls_json=text) == "chat.messages[0].tool_calls_json"


def test_json_may_nest_and_hold_whole_pairs() -> None:
    deep = "[" * (MOST_NESTED - 1) + r'"\ud83d\ude00"' + "]" * (MOST_NESTED - 1)
    assert "😀" in json.dumps(from_json(f'{{"x": {deep}}}'), ensure_ascii=False)


def test_arguments_in_json_keep_order_and_types() -> None:
    given = {"b": 2.0, "a": {"z": 12345678901234567, "y": [1, -0.0, None, True]}}
    read = from_json(json.dumps(given))
    assert json.dumps(read) == json.dumps(given)


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{"])
def test_arguments_that_are_no_json_object_are_refused(text: str) -> None:
    assert refused_field(from_json, text) == "chat.template_arguments_json"


def test_both_forms_of_arguments_exclude_each_other() -> None:
    chat = generation_pb2.Chat(template_arguments=struct(), template_arguments_json="{}")
    assert refused_field(read_arguments, chat, ()) == "chat.template_arguments_json"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("nested", [lambda x: x, lambda x: [{"y": x}], lambda x: {"y": [[x]]}])
def test_numbers_that_are_not_finite_are_refused(number: float, nested: Any) -> None:
    assert refused_field(from_struct, x=nested(number)) == "chat.template_arguments"


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (3, "3"),
        (-3.0, "-3"),
        (1.5, "1.5"),
        (2.0**53, "9007199254740992"),
        (2.0**53 + 2, "9007199254740994.0"),
        (1e300, "1e+300"),
        (-0.0, "-0.0"),
        (0.0, "0"),
    ],
)
def test_a_struct_keeps_integers_as_far_as_it_can(number: float, written: str) -> None:
    assert json.dumps(from_struct(x=[number])["x"]) == f"[{written}]"


def test_a_struct_is_read_in_one_order_in_every_process() -> None:
    given = {name: {"z": 1, "a": [{"y": 1, "b": 2}]} for name in "qwertyuiop"}
    data = generation_pb2.Chat(template_arguments=struct(**given)).SerializeToString().hex()
    script = (
        "import sys; from protos.generation_pb2 import Chat;"
        "from tokenizer_svc.chat_variables import read_arguments;"
        "print(read_arguments(Chat.FromString(bytes.fromhex(sys.argv[1])), ()))"
    )
    seen = {
        subprocess.run([sys.executable, "-c", script, data], capture_output=True, check=True).stdout
        for _ in range(3)
    }
    ordered = {name: {"a": [{"b": 2, "y": 1}], "z": 1} for name in sorted("qwertyuiop")}
    assert seen == {f"{ordered}\n".encode()}


@pytest.mark.parametrize("documents", ["x", ["x"], [None], {"x": {}}, 3])
def test_documents_are_a_list_of_objects(documents: object) -> None:
    assert refused_field(from_struct, documents=documents) == "chat.template_arguments"


@pytest.mark.parametrize(
    ("fields", "form", "text", "key"),
    [
        ({"content": "x"}, PLAIN, "x", "content"),
        ({"content": "x", "reasoning": "r"}, PLAIN, "x", "content"),
        ({"reasoning": "r"}, PLAIN, "r", "reasoning_content"),
        ({"parts": ["a", "b"]}, PLAIN, "a\nb", "content"),
    ],
)
def test_a_message_goes_on_where_its_text_ends(
    fields: dict[str, Any], form: MessageForm, text: str, key: str
) -> None:
    told = read(form, **fields)
    assert mark_end(told, "END") == text
    assert told[key] == text + "END"


def test_parts_go_on_at_the_last() -> None:
    told = read(MessageForm(lists_parts=True), parts=["a", "b"])
    assert mark_end(told, "END") == "b"
    assert told["content"][-1]["text"] == "bEND"


def test_a_call_alone_cannot_go_on() -> None:
    for form in (PLAIN, MessageForm(tests_none=True), MessageForm(tests_presence=True)):
        assert mark_end(read(form, tool_calls_json=json.dumps([CALL])), "END") is None
