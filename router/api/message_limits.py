"""Bounds of requests on the wire of `triptych.v1`. Pure.

Requests are bounded so that none holds up the event loop, and no legal prompt is refused for its
size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from google.protobuf.descriptor import Descriptor

from chassis.errors import TooLarge
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
from router.requests.sizes import Sizes
from router.requests.validation import MOST_REQUEST_ID

MOST_MESSAGES = 4_096
MOST_NAME_BYTES = 256
MOST_JSON_BYTES = 512 << 10
MOST_JSON_DEPTH = 32
MOST_ARGUMENTS = 2_048
MOST_ARGUMENT_DEPTH = 30  # protobuf itself takes few more
LEAST_DETOKENIZED_IDS = 65_536

_SPARE_BYTES = 1 << 20
_CHARACTER_BYTES = 4

_NAME = Bound(each_bytes=MOST_NAME_BYTES)
_JSON = Bound(total_bytes=MOST_JSON_BYTES, depth=MOST_JSON_DEPTH)
_METHODS = "/triptych.v1.GenerationService/"
HELD_METHODS = frozenset(
    _METHODS + name for name in ("Generate", "GenerateStream", "Tokenize", "Detokenize")
)
"""Methods whose requests may be long; those that are held are bounded."""


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
