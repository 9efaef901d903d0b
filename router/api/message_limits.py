"""Bounds of requests and answers. Pure: counts on the wire, and sizes known before the work.

Requests are bounded so that none holds up the event loop, and no legal prompt is refused for its
size. An answer that would not fit a message is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from google.protobuf.descriptor import Descriptor

from chassis.errors import InvalidRequest, TooLarge
from chassis.serving.wire import Bound, checking
from protos import generation_pb2
from router.requests.parameters import (
    MOST_BAD_CHARACTERS,
    MOST_BAD_WORDS,
    MOST_LOGIT_BIASES,
    MOST_STOP_CHARACTERS,
    MOST_STOP_IDS,
    MOST_STOP_STRINGS,
)
from router.requests.validation import MOST_REQUEST_ID, Plan

MOST_MESSAGES = 4_096
MOST_NAME_BYTES = 256
MOST_JSON_BYTES = 512 << 10
MOST_JSON_DEPTH = 32
MOST_ARGUMENTS = 2_048
MOST_ARGUMENT_DEPTH = 30  # protobuf itself takes few more
LEAST_DETOKENIZED_IDS = 65_536

_SPARE_BYTES = 1 << 20
_ID_BYTES = 5  # an id on the wire takes at most so many
_CHARACTER_BYTES = 4
_TOKEN_BYTES = 8  # a token of Tokenize's answer with its id, for each byte of the text
_LOGPROB_BYTES = 16  # a TokenLogprob without the bytes of its token
_LIKELY_TOKEN_BYTES = 16  # where the tokenizer bounds nothing
_ANSWER_BYTES = 4096  # request id, usage, stop strings

_NAME = Bound(each_bytes=MOST_NAME_BYTES)
_JSON = Bound(total_bytes=MOST_JSON_BYTES, depth=MOST_JSON_DEPTH)
_METHODS = "/triptych.v1.GenerationService/"
HELD_METHODS = frozenset(
    _METHODS + name for name in ("Generate", "GenerateStream", "Tokenize", "Detokenize")
)
"""Methods whose requests may be long; those that are held are bounded."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that the bounds of messages follow from.

    Attributes:
        message_bytes: of a message, for gRPC.
        text_bytes: of a text, where nothing else bounds it or it may be truncated.
        prompt_ids: ids that a prompt may have; 0: no model has told.
        bytes_per_id: bytes of text that one id stands for at most; 0: the tokenizer bounds them
            not, or has not told.
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


def request_checks(sizes: Callable[[], Sizes]) -> dict[str, Callable[[bytes], None]]:
    """Checks of the bytes of each method's requests; `sizes` is asked at each request."""

    def check(method: str) -> Callable[[bytes], None]:
        return lambda raw: _checks(sizes())[method](raw)

    return {_METHODS + method: check(method) for method in _REQUESTS}


_REQUESTS: Mapping[str, Descriptor] = {
    "Generate": generation_pb2.GenerateRequest.DESCRIPTOR,
    "GenerateStream": generation_pb2.GenerateRequest.DESCRIPTOR,
    "Tokenize": generation_pb2.TokenizeRequest.DESCRIPTOR,
    "Detokenize": generation_pb2.DetokenizeRequest.DESCRIPTOR,
    "ListModels": generation_pb2.ListModelsRequest.DESCRIPTOR,
    "GetLoad": generation_pb2.GetLoadRequest.DESCRIPTOR,
}


def bounds_of(sizes: Sizes) -> dict[str, dict[str, Bound]]:
    """The bounds of each method's requests, by path of the field."""
    return {
        "Generate": _generate_bounds(sizes),
        "GenerateStream": _generate_bounds(sizes),
        "Tokenize": _prompt_bounds(sizes.longest_tokenized),
        "Detokenize": {
            "model": _NAME,
            "token_ids": Bound(count=max(sizes.prompt_ids, LEAST_DETOKENIZED_IDS)),
        },
        "ListModels": {},
        "GetLoad": {},
    }


@lru_cache(maxsize=4)
def _checks(sizes: Sizes) -> dict[str, Callable[[bytes], None]]:
    bounds = bounds_of(sizes)
    most = sizes.longest_message

    def check(method: str) -> Callable[[bytes], None]:
        fields = checking(_REQUESTS[method], bounds[method])

        def check_message(raw: bytes) -> None:
            fields(raw)
            if len(raw) > most:
                raise TooLarge(
                    f"the message has {len(raw)} bytes, more than the {most} of the longest prompt "
                    "and what goes with it"
                )

        return check_message

    return {method: check(method) for method in _REQUESTS}


def _prompt_bounds(text_bytes: int) -> dict[str, Bound]:
    """Bounds of a text or chat."""
    return {
        "model": _NAME,
        "text": Bound(total_bytes=text_bytes),
        "chat": Bound(total_bytes=text_bytes + _SPARE_BYTES),
        "chat.messages": Bound(count=MOST_MESSAGES),
        "chat.messages.role": _NAME,
        "chat.messages.name": _NAME,
        "chat.messages.tool_call_id": _NAME,
        "chat.messages.tool_calls_json": _JSON,
        "chat.messages.parts": Bound(count=MOST_MESSAGES),
        "chat.tools_json": _JSON,
        "chat.template_arguments": Bound(
            count=MOST_ARGUMENTS, total_bytes=MOST_JSON_BYTES, depth=MOST_ARGUMENT_DEPTH
        ),
        "chat.template_arguments_json": _JSON,
        "chat.template_name": _NAME,
    }


def _generate_bounds(sizes: Sizes) -> dict[str, Bound]:
    return {
        **_prompt_bounds(sizes.longest_text),
        "request_id": Bound(each_bytes=MOST_REQUEST_ID),
        "token_ids.ids": Bound(count=max(sizes.longest_text, sizes.prompt_ids)),
        "sampling.logit_bias": Bound(count=MOST_LOGIT_BIASES),
        "sampling.bad_words": Bound(
            count=MOST_BAD_WORDS, total_bytes=MOST_BAD_CHARACTERS * _CHARACTER_BYTES
        ),
        "stop.strings": Bound(
            count=MOST_STOP_STRINGS, total_bytes=MOST_STOP_CHARACTERS * _CHARACTER_BYTES
        ),
        "stop.token_ids": Bound(count=MOST_STOP_IDS),
    }


def fit_answer(plan: Plan, sizes: Sizes, *, whole: bool, bounded: bool) -> Plan:
    """The plan whose answer fits a message.

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
        plan.stop.max_tokens = room
        return replace(plan, max_tokens=room)
    raise InvalidRequest(
        "stop.max_tokens",
        f"{plan.candidates} times {plan.max_tokens} tokens may take "
        f"{plan.max_tokens * each_bytes} bytes, more than the {left} that an answer has left; "
        "GenerateStream has no such bound",
    )


def _beside_the_prompt(plan: Plan, most: int, token_bytes: int) -> int:
    """Bytes of an answer of `most` that what is told of the prompt leaves.

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
        + output.prompt_logprobs * (1 + output.logprobs) * (token_bytes + _LOGPROB_BYTES)
        + (shown and output.token_ids) * _ID_BYTES
    )


def _output_token_bytes(plan: Plan, token_bytes: int) -> int:
    output = plan.output
    scores = 1 + output.logprobs if output.HasField("logprobs") else 0
    return token_bytes + output.token_ids * _ID_BYTES + scores * (token_bytes + _LOGPROB_BYTES)
