"""A checkpoint's chat templates: messages in, prompt text out.

Templates run in a sandbox, under the conventions that Hugging Face checkpoints are written for,
for a bounded time and in bounded memory. Whatever goes wrong is the request's error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from chassis.errors import InvalidRequest, StartError, refuse_failures
from protos import generation_pb2
from protos.vocabulary.tokenizer_files import TokenizerConfig, VocabularyError, read_object
from tokenizer_svc.chat_variables import mark_end, read_arguments, read_messages, read_tools
from tokenizer_svc.message_form import MessageForm
from tokenizer_svc.sandbox import Refusal, Sandbox, TookTooLong, bounded

RENDER_LIMIT_S = 10.0
RENDER_LIMIT_BYTES = 128 << 20
TEXT_LIMIT = 16 << 20  # characters, besides those of the request

_REASON_CHARACTERS = 500
# Copies of a request's text that a template may hold, a character in four bytes, and write.
_COPIES = 16
_REPEATS = 4
# Stands where the text of a continued message ends; the trailing space shows whether the template
# keeps or trims the spacing there.
_END_OF_MESSAGE = "TRIPTYCH_END_OF_MESSAGE "


class _Template(NamedTuple):
    code: jinja2.Template
    form: MessageForm


class ChatTemplates:
    """The templates of one checkpoint."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """Compile templates.

        Args:
            sources: templates by name; where a chat names none, `default` is used, `tool_use`
                where it brings tools.
            special_tokens: variables such as bos_token.

        Raises:
            StartError: a template does not compile.
        """
        environment = Sandbox()
        self._own_functions = frozenset(environment.globals)
        self._special_tokens = dict(special_tokens)
        self._templates = {name: _compile(environment, text) for name, text in sources.items()}

    @classmethod
    def load(cls, folder: Path) -> ChatTemplates:
        """Read the templates of a checkpoint; it may have none.

        Raises:
            StartError: a file is malformed, or a template does not compile.
        """
        try:
            config = TokenizerConfig.read(folder)
            sources = _find_sources(folder, config.settings)
        except VocabularyError as error:
            raise StartError(str(error)) from error
        return cls(sources, config.special_tokens)

    def render(self, chat: generation_pb2.Chat) -> str:
        """Turn a chat into the prompt's text. Only in the main thread.

        Raises:
            InvalidRequest: the checkpoint has no such template, or the chat does not suit it.
        """
        with _refusing_excess(RENDER_LIMIT_BYTES + _COPIES * chat.ByteSize()):
            return self._render(chat)

    def _render(self, chat: generation_pb2.Chat) -> str:
        tools = read_tools(chat)
        template = self._pick(chat.template_name, tools)
        arguments = read_arguments(chat, self._own_functions)
        messages = read_messages(chat, template.form)
        continued = _mark_final(messages) if chat.continue_final_message else None
        text = _evaluate(
            template.code,
            {
                "documents": None,
                **self._special_tokens,
                **arguments,
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": not chat.continue_final_message,
            },
        )
        most = TEXT_LIMIT + _REPEATS * chat.ByteSize()
        if len(text) > most:
            raise InvalidRequest(
                "chat", f"the chat template wrote {len(text)} characters; at most {most} are taken"
            )
        return text if continued is None else _cut_at_end_of_message(text, continued)

    def _pick(self, name: str, tools: Sequence[Any] | None) -> _Template:
        if not self._templates:
            raise InvalidRequest("chat", "the checkpoint has no chat template; send text instead")
        chosen = name or "default"
        if not name and tools is not None and "tool_use" in self._templates:
            chosen = "tool_use"
        if chosen not in self._templates:
            raise InvalidRequest(
                "chat.template_name",
                f"the checkpoint's templates are {', '.join(sorted(self._templates))}",
            )
        return self._templates[chosen]


def _compile(environment: Sandbox, source: str) -> _Template:
    try:
        with bounded(RENDER_LIMIT_S, RENDER_LIMIT_BYTES):
            return _Template(environment.from_string(source), MessageForm.read(environment, source))
    except jinja2.TemplateSyntaxError as error:
        cause = f"line {error.lineno}: {error.message}"
    except TookTooLong:
        cause = f"it takes more than {RENDER_LIMIT_S:g} s"
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        cause = str(error) or type(error).__name__
    raise StartError(
        f"the chat template does not compile: {cause}; mend it, or remove it to serve without chats"
    )


def _find_sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name: from files of their own before tokenizer_config.json.

    Raises:
        StartError: a template is malformed.
        VocabularyError: a JSON file is.
    """
    paths = [folder / "chat_template.jinja"]
    paths += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    if files := [path for path in paths if path.is_file()]:
        names = ["default" if path == paths[0] else path.stem for path in files]
        return dict(zip(names, map(_read_template, files), strict=True))
    template = read_object(folder / "chat_template.json").get("chat_template")
    template = template or config.get("chat_template") or {}
    if isinstance(template, str):
        return {"default": template}
    try:
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}
        return {str(name): _string(text) for name, text in template.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise StartError(
            f"chat_template of {folder} is neither a template nor a list of named ones; mend it"
        ) from error


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError("not a string")
    return text


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is malformed ({error}); fetch it again") from error


@contextmanager
def _refusing_excess(memory_bytes: int) -> Iterator[None]:
    try:
        with bounded(RENDER_LIMIT_S, memory_bytes):
            yield
    except TookTooLong as error:
        raise InvalidRequest(
            "chat", f"the chat template ran for more than {RENDER_LIMIT_S:g} s"
        ) from error
    except MemoryError as error:
        raise InvalidRequest(
            "chat", f"rendering it took more than {memory_bytes >> 20} MiB"
        ) from error


def _evaluate(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    with refuse_failures("chat", "the chat template"):
        try:
            text = template.render(variables)
            text.encode()
        except MemoryError as error:
            raise InvalidRequest("chat", "the chat template took too much memory") from error
        except Refusal as error:
            reason = str(error)[:_REASON_CHARACTERS].encode(errors="replace").decode()
            raise InvalidRequest("chat.messages", f"the chat template refused: {reason}") from error
    return text


def _mark_final(messages: list[dict[str, Any]]) -> str:
    """Mark the end of the final message; return its text."""
    if not messages:
        raise InvalidRequest("chat.messages", "there is no final message to continue")
    text = mark_end(messages[-1], _END_OF_MESSAGE)
    if text is None:
        raise InvalidRequest("chat.messages", "the final message has no text to continue")
    return text


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
