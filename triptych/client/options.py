"""What can be asked of a generation, and how a prompt may be given.

An option left None is not sent; the server's default applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from triptych.client.tries import RETRY_S


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; which roles exist is decided by the model's chat template."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[Message | Mapping[str, str]]
"""Text, token ids, or the messages of a chat (as `Message` or as `{"role": …, "content": …}`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a prompt is continued and what is sent back.

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
        logit_bias: added to the logit of a token id.
        n: number of candidates, at most 16.
        token_ids: send the ids back.
        logprobs: send log-probabilities back, with this many alternatives a token, at most 20.
        prompt_logprobs: send the prompt's log-probabilities back.
        echo: send the prompt's text back.
        skip_special_tokens: leave special tokens out of the text.
        add_special_tokens: whether the tokenizer adds its special tokens to the prompt.
        tools: tools handed to the chat template.
        template_arguments: further variables of the chat template.
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
    n: int | None = None
    token_ids: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    echo: bool = False
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    template_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    continue_final_message: bool = False


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
    n: int | None
    token_ids: bool
    logprobs: int | None
    prompt_logprobs: bool
    echo: bool
    skip_special_tokens: bool | None
    add_special_tokens: bool | None
    tools: Sequence[Mapping[str, Any]]
    template_arguments: Mapping[str, Any]
    continue_final_message: bool


def choose(options: Options | None, **changes: Unpack[OptionChanges]) -> Options:
    """`options`, or the defaults, with `changes` applied."""
    return dataclasses.replace(options or Options(), **changes)
