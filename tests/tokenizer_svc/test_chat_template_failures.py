"""A failure of a template is the request's error; it ends nothing else."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2

from chassis.errors import InvalidRequest
from protos import generation_pb2
from tokenizer_svc import chat_template
from tokenizer_svc.chat_template import ChatTemplates


def chat(**values: float) -> generation_pb2.Chat:
    arguments = struct_pb2.Struct()
    arguments.update(values)
    message = generation_pb2.ChatMessage(role="user", content="Hi")
    return generation_pb2.Chat(messages=[message], template_arguments=arguments)


def refusal(template: str, request: generation_pb2.Chat) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        ChatTemplates({"default": template}, {}).render(request)
    return error.value


@pytest.mark.parametrize(
    "expression",
    ["1 / 0", "messages[7].content", "'a' + 1", "[1][2].x", "{}.update()", "missing.attribute"],
)
def test_a_template_that_fails_is_the_requests_error(expression: str) -> None:
    assert refusal("{{ " + expression + " }}", chat()).field == "chat"


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10 ** 9",
        "'%1000000000d' % 1",
        "'{:1000000000}'.format(n)",
        "'x' | center(10 ** 9 * n)",
        "[0] * 10 ** 9",
        "10 ** (10 ** 9)",
        "1 | round(10 ** 9 * n, 'ceil')",
        "(9 ** 5000) | string",
        "range(99999) | map('foo') | list",
        "[messages] | tojson(indent=messages)",
        "cycler()",
        "strftime_now('\\ud83d')",
        "'\\ud83d'",
        "raise_exception('\\ud83d')",
        "raise_exception()",
        "[1, none] | sort",
        "[1, 'a'] | max",
        "'ü'.encode('ascii')",
        "messages | attr('x') | int // 0",
    ],
)
def test_whatever_a_template_raises_is_the_requests_error(expression: str) -> None:
    error = refusal("{{ " + expression + " }}", chat(n=1))
    assert error.field in ("chat", "chat.messages")
    error.description.encode()


@pytest.mark.parametrize(
    "template",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set x = namespace(y=[]) %}{% for i in range(5000) %}{% set x.y = [x.y] %}{% endfor %}"
        "{{ x.y | tojson }}",
        "{% set x = namespace(y=3) %}{% for i in range(99) %}{% set x.y = x.y * x.y %}{% endfor %}",
        "{% set x = namespace(y='x') %}{% for i in range(99) %}{% set x.y = x.y ~ x.y %}"
        "{% endfor %}",
        "{% for i in range(40) %}{{ 'x' * 2 ** 19 }}{% endfor %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% for i in 3 %}{% endfor %}",
    ],
)
def test_whatever_a_template_does_is_the_requests_error(template: str) -> None:
    assert refusal(template, chat()).field == "chat"


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.append(1)",
        "raise_exception.__globals__.log",
        "range(10 ** 9) | list",
    ],
)
def test_the_sandbox_holds(expression: str) -> None:
    refusal("{{ " + expression + " }}", chat())


def test_a_template_that_runs_on_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_LIMIT_S", 0.05)
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    assert "ran for more than" in refusal(loops, chat()).description
