"""Room that a prompt's ids get in shared memory, before they are known."""

from __future__ import annotations

from typing import Any

import pytest

from protos import generation_pb2
from router.api.requests import text_prompt

TEXT = "é" * 3000


@pytest.mark.parametrize(
    "fields",
    [
        {"content": TEXT},
        {"parts": [TEXT[:1000], TEXT[1000:]]},
        {"reasoning": TEXT},
        {"tool_calls_json": TEXT},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_text_of_a_message_has_room(fields: dict[str, Any]) -> None:
    message = generation_pb2.ChatMessage(role="user", **fields)
    chat = generation_pb2.Chat(messages=[message])
    assert text_prompt(generation_pb2.GenerateRequest(chat=chat)).most_ids >= len(TEXT.encode())


def test_the_arguments_of_a_template_have_room() -> None:
    messages = [generation_pb2.ChatMessage(role="user")]
    chat = generation_pb2.Chat(messages=messages, template_arguments_json=TEXT, tools_json=TEXT)
    assert text_prompt(generation_pb2.GenerateRequest(chat=chat)).most_ids >= 2 * len(TEXT.encode())
