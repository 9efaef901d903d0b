"""Checks of sampling, stop and output parameters that need no knowledge of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from chassis.errors import InvalidRequest
from protos import generation_pb2

MOST_CANDIDATES = 16
MOST_STOP_STRINGS = 64
MOST_STOP_CHARACTERS = 16_384
MOST_STOP_IDS = 1_024
MOST_LOGIT_BIASES = 1_024
MOST_BAD_WORDS = 64
MOST_BAD_CHARACTERS = 16_384
MOST_LOGPROBS = 20

_SAMPLING: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("temperature", lambda v: v >= 0, "at least 0"),
    ("top_p", lambda v: 0 < v <= 1, "in (0, 1]"),
    ("min_p", lambda v: 0 <= v <= 1, "in [0, 1]"),
    ("repetition_penalty", lambda v: v > 0, "above 0"),
    ("presence_penalty", lambda v: True, "finite"),
    ("frequency_penalty", lambda v: True, "finite"),
)


def check_sampling(sampling: generation_pb2.SamplingParams) -> None:
    """Check how tokens are to be drawn.

    Raises:
        InvalidRequest: a parameter is out of range.
    """
    for name, holds, wording in _SAMPLING:
        if sampling.HasField(name):  # type: ignore[arg-type]  # names are checked by the tests
            value = getattr(sampling, name)
            if not (math.isfinite(value) and holds(value)):
                raise InvalidRequest(f"sampling.{name}", f"{value} is not {wording}")
    if sampling.HasField("n") and not 1 <= sampling.n <= MOST_CANDIDATES:
        raise InvalidRequest("sampling.n", f"{sampling.n} is not in 1 to {MOST_CANDIDATES}")
    _check_count("sampling.logit_bias", len(sampling.logit_bias), MOST_LOGIT_BIASES)
    for token_id, bias in sampling.logit_bias.items():
        if math.isnan(bias) or bias == math.inf:
            wording = "neither finite nor -inf"
            raise InvalidRequest("sampling.logit_bias", f"{bias} of id {token_id} is {wording}")
    _check_strings("sampling.bad_words", sampling.bad_words, MOST_BAD_WORDS, MOST_BAD_CHARACTERS)


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidRequest(field, f"{count} values, more than the {most} that are taken")


def _check_strings(field: str, strings: Sequence[str], most: int, most_characters: int) -> None:
    if not all(strings):
        raise InvalidRequest(field, "one is empty")
    characters = sum(map(len, strings))
    if len(strings) > most or characters > most_characters:
        raise InvalidRequest(
            field,
            f"{len(strings)} strings of {characters} characters in all: at most {most} of "
            f"{most_characters} are taken",
        )


def check_stop(stop: generation_pb2.StopConditions) -> None:
    """Check when candidates are to end.

    Raises:
        InvalidRequest: a condition is out of range.
    """
    # The matcher that is built of them takes a few hundred bytes a character.
    _check_strings("stop.strings", stop.strings, MOST_STOP_STRINGS, MOST_STOP_CHARACTERS)
    _check_count("stop.token_ids", len(stop.token_ids), MOST_STOP_IDS)
    if stop.HasField("max_tokens") and stop.min_tokens > stop.max_tokens:
        raise InvalidRequest(
            "stop.min_tokens", f"{stop.min_tokens} is more than max_tokens, {stop.max_tokens}"
        )


def check_output(output: generation_pb2.OutputOptions) -> None:
    """Check what is to be sent back.

    Raises:
        InvalidRequest: more alternatives are asked for than are told.
    """
    if output.logprobs > MOST_LOGPROBS:
        raise InvalidRequest("output.logprobs", f"{output.logprobs} is more than {MOST_LOGPROBS}")
