"""Messages arrive with all that they say, or are refused with the name of what cannot be sent."""

import enum
import json

import pytest

from protos import generation_pb2 as pb
from triptych.client.options import Message, OptionError, Options
from triptych.client.requests import generate_request, tokenize_request

CALLS = [{"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]


class Role(enum.StrEnum):
    USER = "user"


def turn(message, **options):
    return generate_request([message], Options(**options)).chat.messages[0]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"role": "user", "content": "q", "name": "Ann"}, {"content": "q", "name": "Ann"}),
        ({"role": Role.USER, "content": ""}, {}),
        (
            {"role": "user", "content": "1", "tool_call_id": "x"},
            {"content": "1", "tool_call_id": "x"},
        ),
        ({"role": "user", "content": "a", "reasoning": "r"}, {"content": "a", "reasoning": "r"}),
        (
            {"role": "user", "content": "a", "reasoning_content": "r"},
            {"content": "a", "reasoning": "r"},
        ),
        ({"role": "user", "content": ["p", {"type": "text", "text": "q"}]}, {"parts": ["p", "q"]}),
        (
            {"role": "user", "content": None, "tool_calls": CALLS},
            {"tool_calls_json": json.dumps(CALLS)},
        ),
        ({"role": "user", "tool_calls": CALLS}, {"tool_calls_json": json.dumps(CALLS)}),
        ({"role": "user", "content": "a", "tool_calls": None, "name": None}, {"content": "a"}),
        ({"role": "user", "content": "a", "tool_calls": []}, {"content": "a"}),
    ],
)
def test_a_mapping_arrives_whole(said, sent):
    assert turn(said) == pb.ChatMessage(role="user", **sent)


def test_a_message_arrives_as_the_mapping_of_its_fields():
    message = Message(
        "assistant", None, name="A", reasoning="r", tool_calls=CALLS, tool_call_id="x"
    )
    mapping = {
        "role": "assistant",
        "name": "A",
        "reasoning": "r",
        "tool_calls": CALLS,
        "tool_call_id": "x",
    }

    assert turn(message) == turn(mapping)
    assert tokenize_request([message], Options()).chat.messages[0] == turn(mapping)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "user", "content": "q", "weight": 1}, "'weight'"),
        ({"role": "assistant", "content": "a", "function_call": {"name": "f"}}, "'function_call'"),
        ({"role": "user", "content": "q", 7: "x"}, "7"),
        ({"role": "user", "content": "q", "name": 7}, r"messages\[1\].name: "),
        ({"role": b"user", "content": "q"}, r"messages\[1\].role: "),
        ({"role": "user", "content": b"q"}, r"messages\[1\].content: "),
        ({"role": "user", "content": 7}, r"messages\[1\].content: "),
        ({"role": "user", "content": []}, r"messages\[1\].content: "),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, "'image_url'"),
        ({"role": "user", "content": [{"type": "text", "text": "q", "cache": 1}]}, "'cache'"),
        ({"role": "user", "content": [{"type": "text"}]}, r"messages\[1\].content\[0\].text: "),
        ({"role": "user", "content": "\udcff"}, r"messages\[1\].content"),
        ({"role": "user", "content": "q", "name": "\udcff"}, r"messages\[1\].name"),
        ({"role": "assistant", "tool_calls": "[]"}, r"messages\[1\].tool_calls: "),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, r"messages\[1\].tool_calls: "),
        ({"role": "assistant", "tool_calls": [7]}, r"messages\[1\].tool_calls\[0\]: "),
        (
            {"role": "assistant", "tool_calls": [{"x": float("nan")}]},
            r"messages\[1\].tool_calls\[0\].x: ",
        ),
        ({"role": "assistant", "reasoning": "r", "reasoning_content": "r"}, "'reasoning'"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_message(message, named):
    with pytest.raises(OptionError, match=f"^prompt: .*{named}") as caught:
        generate_request([Message("user", "hi"), message], Options())

    assert "messages[1]" in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        *({"role": "user"}, {"content": "hi"}, {"role": "assistant", "content": None}),
        *(Message("user"), ("user", "hi"), 7, None),
    ],
)
def test_what_is_no_message_is_a_type_error_with_its_place(message):
    with pytest.raises(TypeError, match=r"^messages\[1\]: "):
        generate_request([Message("user", "hi"), message], Options())


def test_template_arguments_keep_their_order_and_their_integers():
    arguments = {"b": 1, "a": {"z": 2**60, "y": [True, None, 0.5, "é"]}}

    chat = generate_request([Message("user", "q")], Options(template_arguments=arguments)).chat

    assert chat.template_arguments_json == (
        '{"b": 1, "a": {"z": 1152921504606846976, "y": [true, null, 0.5, "é"]}}'
    )


def test_a_template_is_named():
    request = generate_request([Message("user", "q")], Options(template_name="rag"))

    assert request.chat.template_name == "rag"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"template_arguments": {"a": [0, float("nan")]}}, r"template_arguments.a\[1\]: "),
        ({"template_arguments": {"a": float("-inf")}}, "template_arguments.a: "),
        ({"template_arguments": {"a": {1: 2}}}, "template_arguments.a: "),
        ({"template_arguments": {"a": {1, 2}}}, "template_arguments.a: "),
        ({"template_arguments": {"a": "\udcff"}}, "template_arguments.a: "),
        ({"template_arguments": [("a", 1)]}, "template_arguments: "),
        ({"template_name": 7}, "template_name: "),
        ({"tools": '[{"name": "f"}]'}, "tools: "),
        ({"tools": {"name": "f"}}, "tools: "),
        ({"tools": [print]}, r"tools\[0\]: "),
        ({"tools": [{"name": "f", "x": float("inf")}]}, r"tools\[0\].x: "),
        ({"continue_final_message": "yes"}, "continue_final_message: "),
    ],
)
def test_what_no_template_can_be_given_is_named(options, named):
    with pytest.raises(OptionError, match=f"^{named}"):
        generate_request([Message("user", "q")], Options(**options))


def test_arguments_that_contain_themselves_are_refused():
    arguments = {}
    arguments["a"] = arguments

    with pytest.raises(OptionError, match=r"^template_arguments\.a.*nested"):
        generate_request([Message("user", "q")], Options(template_arguments=arguments))
