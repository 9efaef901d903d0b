"""What clients are told of a live request, beside its candidates.

The prompt's ids are told where the prompt is asked for (echo, prompt_logprobs) and ids are
(token_ids): ids nobody asked for would make every answer as long as its prompt.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Iterator, Sequence
from typing import TypeVar

from protos import generation_pb2, tokenizer_pb2
from router.requests.request import RouterRequest

_SLICE = 8192

T = TypeVar("T")


def usage_of(live: RouterRequest) -> generation_pb2.Usage:
    """What `live` has cost."""
    return generation_pb2.Usage(
        prompt_tokens=live.plan.prompt_tokens, completion_tokens=live.completion_tokens
    )


async def prompt_of(live: RouterRequest) -> generation_pb2.Prompt | None:
    """The prompt, or None where it was not asked for."""
    output = live.plan.output
    if not (output.echo or output.prompt_logprobs):
        return None
    prompt = generation_pb2.Prompt()
    for part in slices(live.prompt_logprobs):
        prompt.logprobs.extend(part)
        await asyncio.sleep(0)
    if output.echo:
        prompt.text = live.prompt.text
    if output.token_ids:
        prompt.token_ids.extend(live.prompt.ids())
    return prompt


async def tokens_of(answer: tokenizer_pb2.EncodeResponse) -> generation_pb2.TokenizeResponse:
    """The tokens that the tokenizer has answered."""
    response = generation_pb2.TokenizeResponse()
    for ids in slices(array.array("i", answer.ids)):
        response.token_ids.extend(ids)
        await asyncio.sleep(0)
    for tokens in slices(answer.tokens):
        response.tokens.extend(tokens)
        await asyncio.sleep(0)
    return response


def slices(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """`values` in parts that take little time each: the event loop has others to serve."""
    for start in range(0, len(values), _SLICE):
        yield values[start : start + _SLICE]
