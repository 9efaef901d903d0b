"""Requests to llama.cpp and vLLM over HTTP, and the usage in their last event.

Invariant: greedy, one length whatever the model says, nothing reused from earlier prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Usage that a finished stream reports.

    Attributes:
        prompt_tokens: in the prompt.
        output_tokens: in the answer.
    """

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class HttpSpeech:
    """One server's protocol.

    Attributes:
        path: where requests go.
        body: a request's bytes, from a prompt and the answer's length.
        usage: reads the usage from the last event.
        closing_events: how many events at the end carry no output.
        keeps_connections: whether a connection takes a second request.
    """

    path: str
    body: Callable[[str, int], bytes]
    usage: Callable[[Mapping[str, Any]], Usage]
    closing_events: int
    keeps_connections: bool


def _llama_cpp_body(prompt: str, output_tokens: int) -> bytes:
    return json.dumps(
        {
            "prompt": prompt,
            "n_predict": output_tokens,
            # Greedy as cheaply as it can be had: the usual chain of samplers sorts first.
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()


def _llama_cpp_usage(event: Mapping[str, Any]) -> Usage:
    return Usage(int(event["tokens_evaluated"]), int(event["tokens_predicted"]))


def _vllm_body(prompt: str, output_tokens: int) -> bytes:
    return json.dumps(
        {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


def _vllm_usage(event: Mapping[str, Any]) -> Usage:
    usage = event["usage"]
    return Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


HTTP_SPEECHES = {
    # llama-server offers to keep a connection, and closes it after a stream all the same.
    "llama.cpp": HttpSpeech("/completion", _llama_cpp_body, _llama_cpp_usage, 1, False),
    "vllm": HttpSpeech("/v1/completions", _vllm_body, _vllm_usage, 1, True),
}
