"""Options of a generation, and the forms of a prompt.

An option left None is not sent; the server's default applies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict, Unpack

from triptych.client.retry import RETRY_S


class OptionError(ValueError):
    """A value cannot be sent; the message begins with the option's name, or with `prompt`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; which roles exist is decided by the model's chat template.

    Attributes:
        role: who speaks, such as `user`.
        content: text, or its parts, each text or `{"type": "text", "text": …}`; None where an
            assistant only calls tools or only thinks.
        name: the user or the tool that speaks, where a template wants to know.
        reasoning: thoughts of an assistant before its answer.
        tool_calls: calls that an assistant made, in the form its template expects.
        tool_call_id: the call that a tool answers.
    """

    role: str
    content: str | Sequence[str | Mapping[str, Any]] | None = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    tool_call_id: str | None = None


Prompt = str | Sequence[int] | Sequence[Message | Mapping[str, Any]]
"""Text, token ids, or the messages of a chat (as `Message` or as `{"role": …, "content": …}`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of continuing a prompt, and of the answer.

    `tokenize` and `detokenize` send the few of them that their requests have.

    Attributes:
        model: name of the model; None: the only one.
        request_id: label for logs and traces; None: the server makes one.
        timeout: seconds the whole request may take, all its tries together; None: no limit.
        retry_s: seconds after a first failure in which a request that found no server is sent
            again; 0: never. Once the first message has come, nothing is sent again.
        priority: lower runs first.
        max_tokens: output tokens at most; None: what context and KV pool allow; 0: score only.
        min_tokens: output tokens before any other stop condition may hold.
        stop: stop strings, one or several; cut from the text.
        stop_token_ids: ids that stop, besides the model's end-of-sequence ids.
        ignore_eos: the model's end-of-sequence ids do not stop.
        include_matched: keep the matched stop string in the text.
        temperature: divides the logits; 0 is greedy.
        top_p: keep the smallest set of tokens that has this probability, in (0, 1].
        top_k: keep the k likeliest tokens; 0: off.
        min_p: keep tokens at least this times as likely as the likeliest, in [0, 1].
        repetition_penalty: above 1 discourages tokens of prompt and output.
        presence_penalty: subtracted from the logits of tokens in the output.
        frequency_penalty: the same, once for each time a token is in the output.
        seed: same seed, prompt and options give the same tokens.
        logit_bias: added to the logit of a token id; minus infinity bans it.
        bad_words: words that are not written, one or several.
        n: number of candidates, at most 16.
        token_ids: send the ids back.
        logprobs: send log-probabilities back, with this many alternatives a token, at most 20.
        prompt_logprobs: send the prompt's log-probabilities back.
        echo: send the prompt's text back.
        skip_special_tokens: leave special tokens out of the text.
        add_special_tokens: whether the tokenizer adds its special tokens to the prompt.
        truncate_prompt_tokens: keep the last so many tokens of a longer prompt; 0: a prompt that is
            too long is refused.
        tools: tools handed to the chat template, whatever JSON can hold.
        template_arguments: further variables of the chat template; keys keep their order.
        template_name: which of the checkpoint's chat templates; None: its choice.
        continue_final_message: continue the last message instead of opening a new turn.
    """

    model: str | None = None
    request_id: str | None = None
    timeout: float | None = None
    retry_s: float = RETRY_S
    priority: int = 0
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_matched: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    bad_words: str | Sequence[str] = ()
    n: int | None = None
    token_ids: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    echo: bool = False
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int = 0
    tools: Sequence[Mapping[str, Any]] = ()
    template_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    template_name: str | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout)
        _check_seconds("retry_s", self.retry_s)


class OptionChanges(TypedDict, total=False):
    """`Options` as keyword arguments of a client's methods; each has the meaning it has there."""

    model: str | None
    request_id: str | None
    timeout: float | None
    retry_s: float
    priority: int
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_matched: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    logit_bias: Mapping[int, float]
    bad_words: str | Sequence[str]
    n: int | None
    token_ids: bool
    logprobs: int | None
    prompt_logprobs: bool
    echo: bool
    skip_special_tokens: bool | None
    add_special_tokens: bool | None
    truncate_prompt_tokens: int
    tools: Sequence[Mapping[str, Any]]
    template_arguments: Mapping[str, Any]
    template_name: str | None
    continue_final_message: bool


def choose(options: Options | None, **changes: Unpack[OptionChanges]) -> Options:
    """`options`, or the defaults, with `changes` applied."""
    return dataclasses.replace(options or Options(), **changes)


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"{name}: expected seconds, not {type(value).__name__}")
    if math.isnan(value) or value < 0:
        raise OptionError(f"{name}: {value} is no number of seconds")
