"""Sizes of prompts and answers. Pure: an answer that fits no message is refused before the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chassis.errors import InvalidRequest
from router.requests.validation import Plan

_SPARE_BYTES = 1 << 20
_ID_BYTES = 5  # an id on the wire takes at most so many
_TOKEN_BYTES = 8  # a token of Tokenize's answer with its id, for each byte of the text
_LOGPROB_BYTES = 16  # a log-probability without the bytes of its token
_LIKELY_TOKEN_BYTES = 16  # where the tokenizer bounds nothing
_ANSWER_BYTES = 4096  # request id, usage, stop strings


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that the bounds of messages follow from.

    Attributes:
        message_bytes: of a message, for gRPC.
        text_bytes: of a text, where nothing else bounds it or it may be truncated.
        prompt_ids: ids that a prompt may have; 0: no model is known.
        bytes_per_id: bytes of text that one id stands for at most; 0: not bounded, or not known.
    """

    message_bytes: int
    text_bytes: int
    prompt_ids: int = 0
    bytes_per_id: int = 0

    @property
    def longest_text(self) -> int:
        """Bytes that the text of a prompt may have, truncated or not."""
        return max(self.text_bytes, self.prompt_ids * self.bytes_per_id)

    @property
    def longest_message(self) -> int:
        """Bytes of the longest prompt and a MiB more, as far as gRPC takes them."""
        longest_prompt = max(self.longest_text, self.prompt_ids * _ID_BYTES)
        return min(self.message_bytes, longest_prompt + _SPARE_BYTES)

    @property
    def longest_tokenized(self) -> int:
        """Bytes of a text whose tokens surely fit a message."""
        return min(self.longest_text, self.message_bytes // _TOKEN_BYTES)

    def check_text(self, field: str, size: int, *, truncated: bool) -> None:
        """Check that a text of `size` bytes can make a prompt.

        Raises:
            InvalidRequest: it cannot.
        """
        if truncated or not self.bytes_per_id or not self.prompt_ids:
            if size > self.text_bytes:
                raise InvalidRequest(
                    field, f"{size} bytes, more than the {self.text_bytes} that a text may have"
                )
        elif size > self.prompt_ids * self.bytes_per_id:
            least = -(-size // self.bytes_per_id)
            raise InvalidRequest(
                field,
                f"the prompt has {size} bytes, which are {least} tokens or more: more than the "
                f"{self.prompt_ids} that fit",
            )

    def check_answer(self, field: str, size: int) -> None:
        """Check that an answer of `size` bytes to what was sent in `field` fits a message.

        Raises:
            InvalidRequest: it does not.
        """
        if size > self.message_bytes:
            raise InvalidRequest(
                field,
                f"the answer has {size} bytes, more than the {self.message_bytes} it may have",
            )


def fit_answer(plan: Plan, sizes: Sizes, *, whole: bool, bounded: bool) -> Plan:
    """The plan, with `max_tokens` made less where the answer would not fit a message.

    Args:
        plan: with max_tokens set.
        sizes: of messages and tokens.
        whole: one message carries all output, not one for each step.
        bounded: the caller asked for max_tokens; else it may be made less.

    Raises:
        InvalidRequest: the answer may not fit; the field that makes it so large is named.
    """
    token_bytes = sizes.bytes_per_id or _LIKELY_TOKEN_BYTES
    left = _beside_the_prompt(plan, sizes.message_bytes - _ANSWER_BYTES, token_bytes)
    each_bytes = plan.candidates * _output_token_bytes(plan, token_bytes)
    room = left // each_bytes
    if not whole or plan.max_tokens <= room:
        return plan
    if not bounded and room > plan.stop.min_tokens:
        return replace(plan, max_tokens=room)
    raise InvalidRequest(
        "stop.max_tokens",
        f"{plan.candidates} times {plan.max_tokens} tokens may take "
        f"{plan.max_tokens * each_bytes} bytes, more than the {left} that an answer has left; "
        "a streamed answer has no such bound",
    )


def _beside_the_prompt(plan: Plan, most: int, token_bytes: int) -> int:
    """Bytes of an answer of `most` that remain beside its prompt.

    Raises:
        InvalidRequest: it may leave none.
    """
    prompt_bytes = plan.prompt_tokens * _prompt_token_bytes(plan, token_bytes)
    if prompt_bytes >= most:
        field = "output.prompt_logprobs" if plan.output.prompt_logprobs else "output.echo"
        raise InvalidRequest(
            field,
            f"{plan.prompt_tokens} prompt tokens may take {prompt_bytes} bytes, more than the "
            f"{most} of an answer",
        )
    return most - prompt_bytes


def _prompt_token_bytes(plan: Plan, token_bytes: int) -> int:
    output = plan.output
    shown = output.echo or output.prompt_logprobs
    return (
        output.echo * token_bytes
        + output.prompt_logprobs * (1 + (output.logprobs or 0)) * (token_bytes + _LOGPROB_BYTES)
        + (shown and output.token_ids) * _ID_BYTES
    )


def _output_token_bytes(plan: Plan, token_bytes: int) -> int:
    output = plan.output
    scores = 0 if output.logprobs is None else 1 + output.logprobs
    return token_bytes + output.token_ids * _ID_BYTES + scores * (token_bytes + _LOGPROB_BYTES)
