"""What clients are told of a live request, beside its candidates.

The prompt's ids are told where the prompt is asked for (echo, prompt_logprobs) and ids are
(token_ids): ids nobody asked for would make every answer as long as its prompt.
"""

from __future__ import annotations

from protos import generation_pb2
from router.live_request import LiveRequest


def usage_of(live: LiveRequest) -> generation_pb2.Usage:
    """What `live` has cost."""
    return generation_pb2.Usage(
        prompt_tokens=live.plan.prompt_tokens, completion_tokens=live.completion_tokens
    )


def prompt_of(live: LiveRequest) -> generation_pb2.Prompt | None:
    """The prompt, or None where it was not asked for."""
    output = live.plan.output
    if not (output.echo or output.prompt_logprobs):
        return None
    prompt = generation_pb2.Prompt(logprobs=live.prompt_logprobs)
    if output.echo:
        prompt.text = live.prompt.text
    if output.token_ids:
        prompt.token_ids.extend(live.prompt.ids())
    return prompt
