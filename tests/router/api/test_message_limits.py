"""Requests are bounded by the longest that the model takes."""

from __future__ import annotations

from typing import Any

import pytest

from chassis.errors import InvalidRequest, TooLarge
from protos import generation_pb2 as g
from router.api import message_limits
from router.api.message_limits import request_checks
from router.requests.sizes import Sizes

MIB = 1 << 20
SIZES = Sizes(message_bytes=32 * MIB, text_bytes=MIB, prompt_ids=4096, bytes_per_id=16)
UNKNOWN = Sizes(message_bytes=32 * MIB, text_bytes=MIB)


def check(method: str, message: Any, sizes: Sizes = SIZES) -> None:
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    request_checks(lambda: sizes)[f"/triptych.v1.GenerationService/{method}"](raw)


def refusal(method: str, message: Any, sizes: Sizes = SIZES) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        check(method, message, sizes)
    return refused.value


def chat(**fields: Any) -> g.GenerateRequest:
    return g.GenerateRequest(chat=g.Chat(**fields))


def one(**fields: Any) -> g.GenerateRequest:
    return chat(messages=[g.ChatMessage(**fields)])


JSON = "[" + "1," * 300_000 + "1]"
ARGUMENTS = g.GenerateRequest()
ARGUMENTS.chat.template_arguments.update({"a": [1] * 2048})

TOO_MUCH = {
    "request_id": (g.GenerateRequest(request_id="x" * 257), "request_id"),
    "model": (g.GenerateRequest(model="x" * 257), "model"),
    "text": (g.GenerateRequest(text="x" * (MIB + 1)), "text"),
    "ids": (g.GenerateRequest(token_ids=g.TokenIds(ids=[1] * (MIB + 1))), "token_ids.ids"),
    "chat": (one(content="x" * (2 * MIB)), "chat"),
    "messages": (chat(messages=[{}] * 4097), "chat.messages"),
    "parts": (one(parts=["x"] * 4097), "chat.messages.parts"),
    "role": (one(role="x" * 257), "chat.messages.role"),
    "name": (one(name="x" * 257), "chat.messages.name"),
    "tool_call_id": (one(tool_call_id="x" * 257), "chat.messages.tool_call_id"),
    "tool_calls_json": (one(tool_calls_json=JSON), "chat.messages.tool_calls_json"),
    "tools_json": (chat(tools_json=JSON), "chat.tools_json"),
    "tools_json depth": (chat(tools_json="[" * 33 + "]" * 33), "chat.tools_json"),
    "arguments_json": (chat(template_arguments_json=JSON), "chat.template_arguments_json"),
    "arguments": (ARGUMENTS, "chat.template_arguments"),
    "template_name": (chat(template_name="x" * 257), "chat.template_name"),
    "stop strings": (g.GenerateRequest(stop=g.StopConditions(strings=["x"] * 65)), "stop.strings"),
    "long stop strings": (
        g.GenerateRequest(stop=g.StopConditions(strings=["x" * 65_537])),
        "stop.strings",
    ),
    "stop ids": (
        g.GenerateRequest(stop=g.StopConditions(token_ids=[1] * 1025)),
        "stop.token_ids",
    ),
    "logit_bias": (
        g.GenerateRequest(sampling=g.SamplingParams(logit_bias=dict.fromkeys(range(1025), 0.0))),
        "sampling.logit_bias",
    ),
    "bad_words": (
        g.GenerateRequest(sampling=g.SamplingParams(bad_words=["x"] * 65)),
        "sampling.bad_words",
    ),
}


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
@pytest.mark.parametrize(("message", "field"), TOO_MUCH.values(), ids=list(TOO_MUCH))
def test_whatever_a_client_sizes_is_bounded_by_name(
    message: g.GenerateRequest, field: str, method: str
) -> None:
    error = refusal(method, message)
    assert error.field == field
    assert "more than the" in error.description


def test_other_calls_are_bounded_too() -> None:
    assert refusal("Detokenize", g.DetokenizeRequest(token_ids=[1] * 65_537)).field == "token_ids"
    assert refusal("Tokenize", g.TokenizeRequest(text="x" * (MIB + 1))).field == "text"
    for method in ("ListModels", "GetLoad"):
        assert refusal(method, b"\xf8\x07\x01" * 2000).field == "request"


def test_the_longest_legal_request_is_taken() -> None:
    check("Generate", g.GenerateRequest(text="x" * MIB))
    check("Generate", g.GenerateRequest(token_ids=g.TokenIds(ids=[1 << 31] * 4096)))
    check("Detokenize", g.DetokenizeRequest(token_ids=[1] * 65_536))
    messages = [{"role": "user", "content": "x" * 100}] * 4096
    check("Generate", chat(messages=messages, tools_json="[" * 32 + "]" * 32))


def test_no_legal_prompt_is_refused_for_the_operators_bound() -> None:
    large = Sizes(message_bytes=32 * MIB, text_bytes=MIB, prompt_ids=1 << 17, bytes_per_id=64)
    check("Generate", g.GenerateRequest(text="x" * (8 * MIB)), large)
    large.check_text("text", 8 * MIB, truncated=False)
    check("Detokenize", g.DetokenizeRequest(token_ids=[1] * (1 << 17)), large)


def test_the_message_limit_follows_the_longest_prompt_up_to_grpcs() -> None:
    assert SIZES.longest_message == 2 * MIB
    assert Sizes(32 * MIB, MIB, 1 << 20).longest_message == 6 * MIB
    assert Sizes(32 * MIB, MIB, 1 << 20, 128).longest_message == 32 * MIB
    with pytest.raises(TooLarge, match=r"bytes, more than the 2097152"):
        check("Generate", b"\xfa\x07\x80\x80\x80\x01" + b"x" * (2 * MIB))


def growing_fields(descriptor: Any, within: str = "", above: tuple[str, ...] = ()) -> set[str]:
    """Paths of the fields that a client can make as long as it likes."""
    found = set()
    for field in descriptor.fields:
        path = f"{within}.{field.name}" if within else field.name
        inner = field.message_type
        if field.is_repeated or field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            found.add(path)
        if inner is not None and not field.is_repeated and inner.full_name not in above:
            found |= growing_fields(inner, path, (*above, inner.full_name))
    return found


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("Generate", g.GenerateRequest),
        ("GenerateStream", g.GenerateRequest),
        ("Tokenize", g.TokenizeRequest),
        ("Detokenize", g.DetokenizeRequest),
        ("ListModels", g.ListModelsRequest),
        ("GetLoad", g.GetLoadRequest),
    ],
)
def test_every_field_that_can_grow_is_bounded(method: str, request_type: Any) -> None:
    bounds = message_limits.bounds_of(SIZES)[method]
    whole = {path for path, bound in bounds.items() if bound.total_bytes is not None}
    free = {
        path
        for path in growing_fields(request_type.DESCRIPTOR)
        if path not in bounds and not any(path.startswith(f"{one}.") for one in whole)
    }
    assert free == set()
