"""Bounds are found on the wire, before a message is parsed, and no legal message is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidRequest
from chassis.serving import wire
from chassis.serving.wire import Bound, json_depth
from protos import generation_pb2 as g

MIB = 1 << 20
REQUEST = g.GenerateRequest.DESCRIPTOR
IDS, MESSAGES, ARGUMENTS = "token_ids.ids", "chat.messages", "chat.template_arguments"


def violation(raw: bytes, **bounds: Bound) -> InvalidRequest:
    """Refusal of `raw`; in a path's keyword, `__` stands for a dot."""
    paths = {name.replace("__", "."): bound for name, bound in bounds.items()}
    with pytest.raises(InvalidRequest) as refused:
        wire.checking(REQUEST, paths)(raw)
    return refused.value


def accept(raw: bytes, bounds: dict[str, Bound]) -> None:
    wire.checking(REQUEST, bounds)(raw)


def chat(**fields: Any) -> bytes:
    return g.GenerateRequest(chat=g.Chat(**fields)).SerializeToString()


def ids(*sent: int) -> bytes:
    return g.GenerateRequest(token_ids=g.TokenIds(ids=sent)).SerializeToString()


@pytest.mark.parametrize("each", [1, 127, 128, 1 << 31, (1 << 32) - 1])
def test_packed_numbers_are_counted_whatever_their_size(each: int) -> None:
    accept(ids(*[each] * 5), {IDS: Bound(count=5)})
    error = violation(ids(*[each] * 6), token_ids__ids=Bound(count=5))
    assert (error.field, error.description) == (IDS, "6 values, more than the 5 that are taken")


def test_numbers_that_are_not_packed_count_with_those_that_are() -> None:
    sent = b"\x22\x06\x08\x01\x0a\x02\x02\x03"  # one by itself, two packed
    assert list(g.GenerateRequest.FromString(sent).token_ids.ids) == [1, 2, 3]
    accept(sent, {IDS: Bound(count=3)})
    assert violation(sent, token_ids__ids=Bound(count=2)).field == IDS


def test_a_message_field_that_comes_twice_counts_as_one() -> None:
    sent = chat(messages=[{}] * 3) + chat(messages=[{}] * 2)
    assert len(g.GenerateRequest.FromString(sent).chat.messages) == 5
    accept(sent, {MESSAGES: Bound(count=5)})
    assert violation(sent, chat__messages=Bound(count=4)).description.startswith("at least 5")


def test_bytes_are_bounded_for_each_value_and_for_all() -> None:
    sent = chat(messages=[{"role": "abcd"}, {"role": "é"}])
    accept(sent, {"chat.messages.role": Bound(each_bytes=4, total_bytes=6)})
    each = violation(sent, chat__messages__role=Bound(each_bytes=3))
    assert each.description == "4 bytes, more than the 3 that are taken"
    total = violation(sent, chat__messages__role=Bound(total_bytes=5))
    assert (total.field, total.description[:7]) == ("chat.messages.role", "6 bytes")


def test_the_entries_of_a_map_are_counted() -> None:
    sent = g.GenerateRequest(sampling=g.SamplingParams(logit_bias={1: 1, 2: 2}))
    accept(sent.SerializeToString(), {"sampling.logit_bias": Bound(count=2)})
    violation(sent.SerializeToString(), sampling__logit_bias=Bound(count=1))


def nested(levels: int, *, lists: bool) -> bytes:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    message = g.GenerateRequest()
    message.chat.template_arguments.update({"a": value})
    return message.SerializeToString()


@pytest.mark.parametrize("lists", [True, False])
def test_the_levels_of_a_struct_are_bounded(lists: bool) -> None:
    accept(nested(5, lists=lists), {ARGUMENTS: Bound(depth=5)})
    error = violation(nested(6, lists=lists), chat__template_arguments=Bound(depth=5))
    assert (error.field, error.description[:10]) == (ARGUMENTS, "at least 6")


def test_the_values_of_all_levels_of_a_struct_are_counted() -> None:
    message = g.GenerateRequest()
    message.chat.template_arguments.update({"a": [1, 2, {"b": "c"}], "d": None})
    sent = message.SerializeToString()  # a, 1, 2, the object, b, d
    accept(sent, {ARGUMENTS: Bound(count=6)})
    assert violation(sent, chat__template_arguments=Bound(count=5)).field == ARGUMENTS


def test_the_depth_of_json_in_a_string_is_bounded() -> None:
    accept(chat(tools_json='[{"a": "[[["}]'), {"chat.tools_json": Bound(depth=2)})
    assert violation(chat(tools_json='[{"a": []}]'), chat__tools_json=Bound(depth=2))


JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{}\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=25,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(JSON, st.integers(0, 6))
def test_json_is_too_deep_exactly_where_a_parser_goes_deeper(value: Any, most: int) -> None:
    text = json.dumps(value).encode()
    assert (json_depth(text, most) > most) == (depth_of(value) > most)


@pytest.mark.parametrize("text", [b"[" * 9, b"{" * 9, b'"a" [' * 9, b'"\\"" [' * 9])
def test_brackets_that_nothing_closes_are_levels(text: bytes) -> None:
    assert json_depth(text, 8) > 8


UNKNOWN = {
    "number": b"\xf8\x07\x01",
    "fixed": b"\xfd\x07abcd",
    "long": b"\xf9\x07abcdefgh",
    "text": b"\xfa\x07\x02ab",
    "group": b"\xfb\x07\xfc\x07",
    "other wire type": b"\x18\x05",  # a number where a text belongs
}


@pytest.mark.parametrize("unknown", UNKNOWN.values(), ids=list(UNKNOWN))
def test_fields_that_are_not_known_are_passed_and_counted(unknown: bytes) -> None:
    known = ids(1, 2)
    accept(unknown * 9 + known, {IDS: Bound(count=2)})
    assert violation(unknown * 9 + known, token_ids__ids=Bound(count=1)).field == IDS
    error = violation(unknown * 1025)
    assert (error.field, "1025 unknown fields" in error.description) == ("request", True)


def test_what_is_in_a_group_is_not_the_field_of_its_number() -> None:
    accept(b"\xfb\x07" + ids(1, 2, 3) + b"\xfc\x07", {IDS: Bound(count=1)})


MANY = {
    "sampling": b"\x32\x00" * MIB,
    "ids one by one": b"\x22\x02\x08\x05" * MIB,
    "text": b"\x1a\x00" * MIB,
    "messages": g.GenerateRequest(chat=g.Chat.FromString(b"\x0a\x00" * MIB)).SerializeToString(),
    "unknown": b"\xf8\x07\x01" * MIB,
}


@pytest.mark.parametrize("sent", MANY.values(), ids=list(MANY))
def test_no_message_has_more_fields_than_can_be_walked(sent: bytes) -> None:
    assert "more than the" in violation(sent).description


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 99,  # a tag that does not end
        b"\x1a",  # no length
        b"\x1a\x05abc",  # longer than the message
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x48",  # no number
        b"\xf9\x07abc",
        b"\x0f",  # wire type 7
        b"\x0e",  # wire type 6
        b"\x22\x03\x0a\x05\x01",  # an inner field longer than its message
    ],
)
def test_bytes_that_are_no_message_are_told_as_by_a_parser(sent: bytes) -> None:
    with pytest.raises(DecodeError):
        accept(sent, {})
    with pytest.raises(DecodeError):
        g.GenerateRequest.FromString(sent)


@given(st.binary(max_size=60))
def test_what_a_parser_takes_is_not_called_malformed(sent: bytes) -> None:
    try:
        g.GenerateRequest.FromString(sent)
    except DecodeError:
        return
    accept(sent, {})
