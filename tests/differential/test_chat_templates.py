"""Dialogues in published templates are transformers' text and ids, or a reason is listed."""

from __future__ import annotations

import json
from typing import Any

from chassis.errors import InvalidRequest
from protos import generation_pb2
from tokenizer_svc.chat_template import ChatTemplates

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a <place> & 'time'. Grüße 🌍",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["place"],
            },
        },
    }
]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Köln", "days": 2, "at": [1.5]}},
}
SYSTEM = {"role": "system", "content": "Be brief.\n"}
USER = {"role": "user", "content": " How is the weather? <b>&'\"\n"}
ASSISTANT = {"role": "assistant", "content": "Fine, I guess. "}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOLD = {"role": "tool", "name": "get_weather", "content": '{"sun": true}', "tool_call_id": "call_1"}
THOUGHT = {"role": "assistant", "content": "Sun.", "reasoning_content": "It says sun.\n"}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}],
}
DIALOGUES: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "turns": {"messages": [USER, ASSISTANT, USER]},
    "system": {"messages": [SYSTEM, USER, ASSISTANT, USER]},
    "late system": {"messages": [USER, ASSISTANT, SYSTEM, USER]},
    "wrong roles": {"messages": [USER, USER]},
    "tools": {"messages": [USER], "tools": TOOLS},
    "tools and system": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "tool call": {"messages": [USER, CALLING, TOLD], "tools": TOOLS},
    "tool calls": {
        "messages": [
            USER,
            {**ASSISTANT, "tool_calls": [CALL, CALL]},
            *(TOLD, TOLD, THOUGHT, USER),
        ],
        "tools": TOOLS,
    },
    "tool call and reasoning": {
        "messages": [USER, {**CALLING, "content": "I ask.", "reasoning_content": "Ask."}, TOLD],
        "tools": TOOLS,
    },
    "reasoning": {"messages": [USER, THOUGHT, USER]},
    "reasoning last": {"messages": [USER, THOUGHT]},
    "parts": {"messages": [PARTS, ASSISTANT, PARTS]},
    "no thinking": {"messages": [USER], "arguments": {"enable_thinking": False}},
    "other bos": {
        "messages": [USER],
        "arguments": {"bos_token": "<other>", "n": 12345678901234567},
    },
    "documents": {
        "messages": [USER],
        "arguments": {"documents": [{"title": "T", "text": "It rains."}]},
    },
    "continued": {"messages": [USER, ASSISTANT], "continued": True},
    "continued reasoning": {"messages": [USER, {**THOUGHT, "content": ""}], "continued": True},
    "continued after reasoning": {"messages": [USER, THOUGHT], "continued": True},
}

_JOINED = "the template takes text alone: transformers fails or writes Python, we join the parts"
_NO_CONTENT = (
    "the template wants None for no content and arguments as text: transformers gives neither"
)
# Dialogues whose text differs from transformers', and why.
REASONS = {
    "llama3_1": {"parts": _JOINED},
    "qwen3": {"parts": _JOINED},
    "deepseek_v3": {"parts": _JOINED, "tool call": _NO_CONTENT},
}


def test_dialogues_are_written_as_transformers_does(checkpoint: Any) -> None:
    templates = ChatTemplates.load(checkpoint.folder)
    reasons = REASONS.get(checkpoint.name, {})
    differing = {}
    for name, given in DIALOGUES.items():
        written, expected = _write(templates, given), _expected(checkpoint.theirs, given)
        if written != expected:
            differing[name] = (written, expected)
    assert not {name: pair for name, pair in differing.items() if name not in reasons}
    assert differing.keys() == reasons.keys(), "a reason no longer holds"


def test_a_call_without_text_is_written_where_the_template_knows_calls(checkpoint: Any) -> None:
    written = _write(ChatTemplates.load(checkpoint.folder), DIALOGUES["tool call"])
    known = "tool_calls" in (checkpoint.theirs.chat_template or "")
    assert not known or (written is not None and "get_weather" in written)


def test_prompts_of_dialogues_have_transformers_ids(checkpoint: Any) -> None:
    texts = filter(None, (_expected(checkpoint.theirs, given) for given in DIALOGUES.values()))
    for text in texts:
        ids = checkpoint.ours.encode(text, add_special_tokens=False).ids
        assert ids == checkpoint.theirs(text, add_special_tokens=False)["input_ids"], text


def _write(templates: ChatTemplates, given: dict[str, Any]) -> str | None:
    """Our text; None: refused."""
    chat = generation_pb2.Chat(
        messages=map(_message, given["messages"]),
        tools_json=json.dumps(given["tools"]) if "tools" in given else "",
        template_arguments_json=json.dumps(given["arguments"]) if "arguments" in given else "",
        continue_final_message=given.get("continued", False),
    )
    try:
        return templates.render(chat)
    except InvalidRequest:
        return None


def _message(given: dict[str, Any]) -> generation_pb2.ChatMessage:
    content = given.get("content", "")
    calls = given.get("tool_calls")
    return generation_pb2.ChatMessage(
        role=given["role"],
        content=content if isinstance(content, str) else "",
        parts=[] if isinstance(content, str) else [part["text"] for part in content],
        name=given.get("name", ""),
        reasoning=given.get("reasoning_content", ""),
        tool_calls_json=json.dumps([_as_clients_send(call) for call in calls]) if calls else "",
        tool_call_id=given.get("tool_call_id", ""),
    )


def _as_clients_send(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"])
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _expected(tokenizer: Any, given: dict[str, Any]) -> str | None:
    """Transformers' text; None: it fails."""
    continued = given.get("continued", False)
    if continued and not given["messages"][-1]["content"]:
        continued = "reasoning_content"  # a final message that has only thought goes on in it
    try:
        return str(
            tokenizer.apply_chat_template(
                given["messages"],
                tools=given.get("tools"),
                tokenize=False,
                add_generation_prompt=not continued,
                continue_final_message=continued,
                **given.get("arguments", {}),
            )
        )
    except Exception:  # noqa: BLE001  (templates raise anything)
        return None
