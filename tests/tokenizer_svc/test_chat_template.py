"""Chats are rendered as Hugging Face checkpoints expect, in a sandbox, with errors by field."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from google.protobuf import struct_pb2
from support.tiny_tokenizers import TEMPLATE

from chassis.errors import InvalidRequest, StartError
from protos import generation_pb2
from tokenizer_svc.chat_template import ChatTemplates

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def chat(*contents: str, roles: tuple[str, ...] = ("user", "assistant"), **fields):
    turns = [
        generation_pb2.ChatMessage(role=roles[i % len(roles)], content=content)
        for i, content in enumerate(contents)
    ]
    return generation_pb2.Chat(messages=turns, **fields)


def arguments(**values) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def render(template: str, request: generation_pb2.Chat) -> str:
    return ChatTemplates({"default": template}, SPECIAL).render(request)


def refusal(template: str, request: generation_pb2.Chat) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        render(template, request)
    return error.value


def test_opens_a_new_turn() -> None:
    assert render(TEMPLATE, chat("Hi")) == "<s><|user|>Hi</s>\n<|assistant|>"


def test_a_continued_message_is_left_open() -> None:
    request = chat("Hi", "Hello, I", continue_final_message=True)
    assert render(TEMPLATE, request) == "<s><|user|>Hi</s>\n<|assistant|>Hello, I"


@pytest.mark.parametrize("content", ["Sure ", " Sure", "Sure\n"])
def test_a_continued_message_keeps_its_spacing_where_the_template_does(content: str) -> None:
    request = chat("Hi", content, continue_final_message=True)
    assert render(TEMPLATE, request).endswith(f"<|assistant|>{content}")


def test_a_continued_message_ends_trimmed_where_the_template_trims() -> None:
    template = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert render(template, chat("Hi", "Sure ", continue_final_message=True)) == "[Hi][Sure"


def test_a_template_that_drops_the_final_message_cannot_continue_it() -> None:
    error = refusal("{{ messages[0].content }}", chat("a", "b", continue_final_message=True))
    assert error.field == "chat.messages"


def test_continuing_needs_a_message() -> None:
    assert refusal(TEMPLATE, chat(continue_final_message=True)).field == "chat.messages"


def test_what_the_template_refuses_is_told_in_its_words() -> None:
    error = refusal(TEMPLATE, chat("Hi", roles=("narrator",)))
    assert error.field == "chat.messages"
    assert "no role narrator" in error.description


def test_tools_reach_the_template_as_json() -> None:
    template = "{% for tool in tools %}{{ tool | tojson }};{% endfor %}"
    request = chat("Hi", tools_json='[{"name": "größer <&>"}, 2]')
    assert render(template, request) == '{"name": "größer <&>"};2;'


def test_a_template_for_tools_is_used_where_there_are_some() -> None:
    templates = ChatTemplates({"default": "plain", "tool_use": "tools"}, {})
    assert templates.render(chat("Hi")) == "plain"
    assert templates.render(chat("Hi", tools_json="[]")) == "tools"


@pytest.mark.parametrize("tools_json", ["{}", "[", "3", "[" * 100_000])
def test_tools_that_are_no_array_are_refused(tools_json: str) -> None:
    assert refusal(TEMPLATE, chat("Hi", tools_json=tools_json)).field == "chat.tools_json"


@pytest.mark.parametrize("name", ["raise_exception", "strftime_now", "range", "namespace", "dict"])
@pytest.mark.parametrize("field", ["template_arguments", "template_arguments_json"])
def test_template_arguments_cannot_replace_the_templates_functions(name: str, field: str) -> None:
    value = arguments(**{name: "x"}) if field == "template_arguments" else json.dumps({name: "x"})
    error = refusal(TEMPLATE, chat("Hi", **{field: value}))
    assert error.field == f"chat.{field}"
    assert name in error.description


def test_template_arguments_may_replace_special_tokens() -> None:
    request = chat("Hi", template_arguments=arguments(bos_token="<x>", enable_thinking=False))
    assert render("{{ bos_token }}{{ enable_thinking }}", request) == "<x>False"


def test_documents_are_none_unless_sent() -> None:
    template = "{{ documents is none }}{{ documents | tojson }}"
    assert render(template, chat("Hi")) == "Truenull"
    documents = [{"title": "T", "text": "t"}]
    request = chat("Hi", template_arguments_json=json.dumps({"documents": documents}))
    assert render(template, request) == "False" + json.dumps(documents)


def test_blocks_are_trimmed_and_loops_can_be_left() -> None:
    template = "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n"
    template += "{{ m.content }}\n{% endfor %}"
    assert render(template, chat("a", "b")) == "a\n"


def test_generation_blocks_are_scopes() -> None:
    template = "{% set x = 1 %}{% generation %}{{ messages[0].content }}{{ x }}{% set y = 2 %}"
    assert render(template + "{% endgeneration %}{{ y }}", chat("a")) == "a1"


def test_a_template_can_tell_the_year() -> None:
    years = {str(datetime.now().year), str(datetime.now().year + 1)}
    assert render("{{ strftime_now('%Y') }}", chat("a")) in years


def test_a_checkpoint_without_a_template_refuses_chats(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        ChatTemplates.load(tmp_path).render(chat("Hi"))


def load(folder: Path, config: object, **files: str) -> ChatTemplates:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return ChatTemplates.load(folder)


def test_templates_see_the_special_tokens_of_all_files(tmp_path: Path) -> None:
    config = {
        "eos_token": "<e>",
        "extra_special_tokens": {"image_token": "<i>"},
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token }}",
    }
    special = {"bos_token": {"content": "<b>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    assert load(tmp_path, config).render(chat("Hi")) == "<b><e><i>"


def test_named_templates_are_read(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert ChatTemplates.load(tmp_path).render(chat("Hi")) == "d"


def test_a_chat_names_its_template(tmp_path: Path) -> None:
    config = {"chat_template": {"rag": "r", "default": "d", "tool_use": "t"}}
    templates = load(tmp_path, config)
    assert templates.render(chat("Hi", template_name="rag", tools_json="[]")) == "r"
    with pytest.raises(InvalidRequest, match="default, rag, tool_use") as error:
        templates.render(chat("Hi", template_name="odd"))
    assert error.value.field == "chat.template_name"


def test_templates_in_files_of_their_own_stand_for_all(tmp_path: Path) -> None:
    further = {"additional_chat_templates__tool_use": "t", "additional_chat_templates__rag": "r"}
    templates = load(tmp_path, {"chat_template": "config"}, chat_template="d", **further)
    assert templates.render(chat("Hi")) == "d"
    assert templates.render(chat("Hi", tools_json="[]")) == "t"
    assert templates.render(chat("Hi", template_name="rag")) == "r"
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(InvalidRequest, match="rag, tool_use"):
        ChatTemplates.load(tmp_path).render(chat("Hi"))


def test_a_templates_own_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "config"}')
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert ChatTemplates.load(tmp_path).render(chat("Hi")) == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert ChatTemplates.load(tmp_path).render(chat("Hi")) == "jinja"


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"chat_template": "{% if %}"}',
        '{"chat_template": "{{ x | odd }}"}',
        '{"chat_template": 3}',
        '{"chat_template": [1]}',
        '{"chat_template": {"default": 1}}',
        '{"chat_template": "{% generation %}{% break %}{% endgeneration %}"}',
    ],
)
def test_a_malformed_template_stops_the_start_in_one_line(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(StartError) as error:
        ChatTemplates.load(tmp_path)
    assert re.fullmatch(r".+(mend|fetch).+", str(error.value))


MARKED = (
    "{% for m in messages %}\n    {%- if m.role == 'system' %}{{ m.content | upper }}{% else %}\n"
    "[{{ m.role }}] {{ m.content.strip() }}{{ eos_token }}\n    {%- endif %}\n{% endfor %}\n"
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
@pytest.mark.parametrize("final", ["Sure", " Sure ", "Sure.\n", "größer <b> & 'c'"])
@pytest.mark.parametrize("tools", [None, [{"name": "größer", "n": [1, None, True]}]])
@pytest.mark.parametrize("continued", [False, True])
def test_renders_as_transformers_does(
    template: str, final: str, tools: list[object] | None, continued: bool
) -> None:
    from transformers.utils import chat_template_utils as utils  # takes seconds: not at the top

    request = chat("Hi\n", final, "And?", final, continue_final_message=continued)
    request.tools_json = json.dumps(tools) if tools else ""
    (expected,), _ = utils.render_jinja_template(
        conversations=[[{"role": m.role, "content": m.content} for m in request.messages]],
        tools=tools,
        chat_template=template,
        continue_final_message=continued,
        add_generation_prompt=not continued,
        **SPECIAL,
    )
    assert render(template, request) == expected
