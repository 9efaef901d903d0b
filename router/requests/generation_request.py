"""The one type of request that the router's core runs, whatever protocol it came by.

An adapter in `router/api` makes it of its protocol's message. Errors of the core name its fields,
such as `prompt` or `stop.max_tokens`; the adapter puts in the paths of its protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.requests.parameters import OutputOptions, SamplingParams, StopConditions

# Ids that special tokens, or a template's own words, may add to the bytes of a text or a chat.
_MARGIN_IDS = 64
_CHAT_MARGIN_IDS = 512
_MESSAGE_MARGIN_IDS = 16


@dataclass(slots=True)
class TextPrompt:
    """A text."""

    text: str

    @property
    def most_ids(self) -> int:
        """Ids that it will hardly exceed: no token is made of less than a byte."""
        return byte_count(self.text) + _MARGIN_IDS


@dataclass(slots=True)
class ChatPrompt:
    """A chat for the model's template.

    Attributes:
        encoded: a serialised `triptych.v1.Chat`, which the router does not read.
        messages: number of its messages.
    """

    encoded: bytes
    messages: int

    @property
    def most_ids(self) -> int:
        """Ids that it will hardly exceed: no token is made of less than a byte."""
        return len(self.encoded) + _MESSAGE_MARGIN_IDS * self.messages + _CHAT_MARGIN_IDS


@dataclass(slots=True)
class IdsPrompt:
    """Token ids, which may be a view of the message that they came in."""

    ids: Sequence[int]


Prompt = TextPrompt | ChatPrompt | IdsPrompt
READ = IdsPrompt(())
"""Prompt of a request whose prompt was read, and is no longer held here."""


@dataclass(slots=True)
class GenerationRequest:
    """A request to continue a prompt; not changed once made.

    Attributes:
        prompt: to continue.
        sampling: of tokens.
        stop: conditions under which a candidate ends.
        output: contents of the answer.
        model: name of the model; empty: the one that is served.
        priority: lower runs first.
        add_special_tokens: the prompt gets the tokenizer's special tokens; None: a text does.
        truncate_prompt_tokens: last ids of the prompt that are kept; 0: all.
    """

    prompt: Prompt
    sampling: SamplingParams
    stop: StopConditions
    output: OutputOptions
    model: str = ""
    priority: int = 0
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int = 0

    def without_prompt(self) -> GenerationRequest:
        """The request without its prompt, which may be as long as a message."""
        return GenerationRequest(
            READ,
            self.sampling,
            self.stop,
            self.output,
            self.model,
            self.priority,
            self.add_special_tokens,
            self.truncate_prompt_tokens,
        )


def byte_count(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
