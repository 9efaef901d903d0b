"""The form of messages that a template expects is read from its source."""

from __future__ import annotations

import pytest

from tokenizer_svc.message_form import MessageForm
from tokenizer_svc.sandbox import Sandbox


def form(source: str) -> MessageForm:
    return MessageForm.read(Sandbox(), source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for part in message.content %}{% endfor %}",
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{% endfor %}",
        "{% set said = message.content %}{% for part in said %}{% endfor %}",
        "{% macro write(content) %}{% for part in content %}{% endfor %}{% endmacro %}",
    ],
)
def test_a_template_that_walks_content_takes_parts(source: str) -> None:
    assert form("{% for message in messages %}{% endfor %}" + source).lists_parts


@pytest.mark.parametrize(
    "source", ["{{ message.content }}", "{% for m in messages %}{{ m.content }}{% endfor %}"]
)
def test_other_templates_take_text(source: str) -> None:
    assert form(source) == MessageForm()


@pytest.mark.parametrize(
    "condition",
    ["m.content is none", "m['content'] is not none", "m.content == None", "content != none"],
)
def test_a_template_may_test_content_for_none(condition: str) -> None:
    assert form("{% if " + condition + " %}{% endif %}").tests_none
    assert not form("{% if " + condition.replace("content", "role") + " %}{% endif %}").tests_none


def test_a_template_may_join_arguments_to_text() -> None:
    assert form("{{ 'x' + call['function']['arguments'] + 'y' }}").joins_arguments
    assert form("{{ 'x' ~ call.function.arguments ~ 'y' }}").joins_arguments
    assert not form("{{ 'x' ~ call.function.arguments | tojson ~ 'y' }}").joins_arguments
    assert not form("{{ call.function.arguments | tojson }}").joins_arguments


@pytest.mark.parametrize(
    "condition",
    ["m.content is defined", "m['content'] is undefined", "'content' in m", "'content' not in m"],
)
def test_a_template_may_test_whether_there_is_content(condition: str) -> None:
    assert form("{% if " + condition + " %}{% endif %}").tests_presence
    assert not form(
        "{% if " + condition.replace("content", "role") + " %}{% endif %}"
    ).tests_presence
