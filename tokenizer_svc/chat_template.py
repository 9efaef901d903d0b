"""A checkpoint's chat templates: messages in, prompt text out.

Templates run in Jinja2's immutable sandbox, under the conventions that Hugging Face checkpoints
are written for, and for a bounded time. Whatever goes wrong is the request's error.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from google.protobuf import json_format

from chassis.errors import InvalidRequest, StartError
from protos import generation_pb2

RENDER_LIMIT_S = 10.0

_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt"})
# Stands where the text of a continued message ends; the trailing space tells whether the template
# keeps or trims the spacing there.
_END_OF_MESSAGE = "TRIPTYCH_END_OF_MESSAGE "

# What evaluating an expression of a template may raise.
_EVALUATION_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class _Raised(jinja2.TemplateError):
    """The template called raise_exception."""


class _TookTooLong(Exception):
    """The template ran into its time limit."""


class ChatTemplates:
    """The templates of one checkpoint."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """Compile templates.

        Args:
            sources: templates by name; `default` is used, `tool_use` where a chat brings tools.
            special_tokens: variables such as bos_token.

        Raises:
            StartError: a template does not compile.
        """
        environment = _environment()
        try:
            self._templates = {
                name: environment.from_string(text) for name, text in sources.items()
            }
        except jinja2.TemplateSyntaxError as error:
            raise StartError(
                f"the chat template does not compile: line {error.lineno}: {error.message}; "
                f"mend it, or remove it to serve without chats"
            ) from error
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path) -> ChatTemplates:
        """Read the templates of a checkpoint; it may have none.

        Raises:
            StartError: a file is malformed, or a template does not compile.
        """
        config = _read_object(folder / "tokenizer_config.json")
        special_tokens = {}
        for name, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                special_tokens[name] = text
        return cls(_find_sources(folder, config), special_tokens)

    def render(self, chat: generation_pb2.Chat) -> str:
        """Turn a chat into the prompt's text.

        Raises:
            InvalidRequest: the checkpoint has no template, or the chat does not suit it.
        """
        tools = _parse_tools(chat.tools_json)
        template = self._pick(tools)
        messages = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
        if chat.continue_final_message:
            if not messages:
                raise InvalidRequest("chat.messages", "there is no final message to continue")
            messages[-1]["content"] += _END_OF_MESSAGE
        text = _evaluate(
            template,
            {
                **self._special_tokens,
                **_template_arguments(chat),
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": not chat.continue_final_message,
            },
        )
        if chat.continue_final_message:
            return _cut_at_end_of_message(text, chat.messages[-1].content)
        return text

    def _pick(self, tools: Sequence[Any] | None) -> jinja2.Template:
        if tools is not None and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if "default" not in self._templates:
            raise InvalidRequest("chat", "the checkpoint has no chat template; send text instead")
        return self._templates["default"]


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is not there is an empty one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StartError(f"{path} is malformed ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise StartError(f"{path} is malformed (not a JSON object); fetch it again")
    return content


def _find_sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name: from a file of their own before tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return {"default": path.read_text(encoding="utf-8")}
    template = _read_object(folder / "chat_template.json").get("chat_template")
    template = template or config.get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    try:
        return {entry["name"]: entry["template"] for entry in template or ()}
    except (TypeError, KeyError) as error:
        raise StartError(
            f"chat_template of {folder} is neither a template nor a list of named ones; mend it"
        ) from error


def _parse_tools(tools_json: str) -> list[Any] | None:
    if not tools_json:
        return None
    try:
        tools = json.loads(tools_json)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("chat.tools_json", f"is not JSON: {error}") from error
    if not isinstance(tools, list):
        raise InvalidRequest("chat.tools_json", "is not a JSON array")
    return tools


def _template_arguments(chat: generation_pb2.Chat) -> dict[str, Any]:
    arguments = json_format.MessageToDict(chat.template_arguments)
    if taken := _OWN_VARIABLES & arguments.keys():
        raise InvalidRequest(
            "chat.template_arguments",
            f"{', '.join(sorted(taken))}: set by the request's own fields",
        )
    return {name: _whole_numbers(value) for name, value in arguments.items()}


def _whole_numbers(value: Any) -> Any:
    """Give back the integers that a Struct, which has only doubles, took away."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    return value


def _evaluate(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    try:
        with _time_limit(RENDER_LIMIT_S):
            return template.render(variables)
    except _Raised as error:
        raise InvalidRequest("chat.messages", f"the chat template refused: {error}") from error
    except _TookTooLong as error:
        raise InvalidRequest(
            "chat", f"the chat template ran for more than {RENDER_LIMIT_S:g} s"
        ) from error
    except _EVALUATION_ERRORS as error:
        raise InvalidRequest("chat", f"the chat template failed: {error}") from error


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Bound the block's own CPU time, in the main thread; a busy machine does not count."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise _TookTooLong

    before = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _cut_at_end_of_message(text: str, content: str) -> str:
    """Drop what the template wrote after the final message, so that a model goes on with it."""
    end = text.rfind(_END_OF_MESSAGE.strip())
    if end < 0 or content.strip() not in text:
        raise InvalidRequest(
            "chat.messages", "the chat template changes the final message: it cannot be continued"
        )
    if text.startswith(_END_OF_MESSAGE, end):
        return text[:end]
    return text[:end].rstrip()  # the template trims messages


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it changes nothing."""

    tags: set[str] = {"generation"}  # noqa: RUF012  (the name and type are Jinja2's)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _format_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise _Raised(message)


def _format_now(format_: str) -> str:
    return datetime.now().strftime(format_)
