"""Parameters of a request, as the router's core has them, and checks that need no model.

Each public protocol has an adapter in `router/api` that makes these; nothing below it knows the
protocol. Parameters are not changed once made. None stands for a parameter that is not set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from chassis.errors import InvalidRequest

MOST_CANDIDATES = 16
MOST_STOP_STRINGS = 64
MOST_STOP_CHARACTERS = 16_384
MOST_STOP_IDS = 1_024
MOST_LOGIT_BIASES = 1_024
MOST_BAD_WORDS = 64
MOST_BAD_CHARACTERS = 16_384
MOST_LOGPROBS = 20


# Not frozen: to set the fields of a frozen instance takes three times as long, once a request.
@dataclass(slots=True)
class SamplingParams:
    """Sampling of tokens.

    Attributes:
        logit_bias: token id → number that is added to its logit.
        n: candidates.
        bad_words: texts that the output may not have.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    n: int | None = None
    bad_words: Sequence[str] = ()

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """These parameters, and those of `defaults` where these are not set."""
        merged = {name: getattr(self, name) for name in _NAMES}
        for name, value in merged.items():
            if value is None:
                merged[name] = getattr(defaults, name)
        merged["logit_bias"] = {**defaults.logit_bias, **self.logit_bias}
        return SamplingParams(**merged)


_NAMES = tuple(each.name for each in fields(SamplingParams))


@dataclass(slots=True)
class StopConditions:
    """Conditions under which a candidate ends.

    Attributes:
        max_tokens: output tokens of one candidate at most; None: as many as there is room for.
        min_tokens: output tokens before which no condition but `max_tokens` holds.
        strings: texts after which it ends.
        token_ids: ids after which it ends.
        ignore_eos: the model's end-of-sequence ids do not end it.
        include_matched: the text has the string or id that ended it.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    strings: Sequence[str] = ()
    token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_matched: bool = False

    @property
    def may_stop(self) -> bool:
        """True if an output may end before it has `max_tokens`."""
        return bool(not self.ignore_eos or self.strings or self.token_ids)


@dataclass(slots=True)
class OutputOptions:
    """Contents of an answer.

    Attributes:
        token_ids: ids of the output, and of the prompt where that is sent back.
        logprobs: alternatives of each output token with log-probabilities; None: none at all.
        prompt_logprobs: log-probabilities of the prompt.
        echo: text of the prompt.
        skip_special_tokens: the text has no special tokens.
    """

    token_ids: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    echo: bool = False
    skip_special_tokens: bool = True


_SAMPLING: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("temperature", lambda v: v >= 0, "at least 0"),
    ("top_p", lambda v: 0 < v <= 1, "in (0, 1]"),
    ("min_p", lambda v: 0 <= v <= 1, "in [0, 1]"),
    ("repetition_penalty", lambda v: v > 0, "above 0"),
    ("presence_penalty", lambda v: True, "finite"),
    ("frequency_penalty", lambda v: True, "finite"),
)


def check_sampling(sampling: SamplingParams) -> None:
    """Check the sampling of tokens.

    Raises:
        InvalidRequest: a parameter is out of range.
    """
    for name, holds, wording in _SAMPLING:
        value = getattr(sampling, name)
        if value is not None and not (math.isfinite(value) and holds(value)):
            raise InvalidRequest(f"sampling.{name}", f"{value} is not {wording}")
    if sampling.n is not None and not 1 <= sampling.n <= MOST_CANDIDATES:
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
    if not strings:
        return
    if not all(strings):
        raise InvalidRequest(field, "one is empty")
    characters = sum(map(len, strings))
    if len(strings) > most or characters > most_characters:
        raise InvalidRequest(
            field,
            f"{len(strings)} strings of {characters} characters in all: at most {most} of "
            f"{most_characters} are taken",
        )


def check_stop(stop: StopConditions) -> None:
    """Check the ends of candidates.

    Raises:
        InvalidRequest: a condition is out of range.
    """
    # The matcher that is built of them takes a few hundred bytes a character.
    _check_strings("stop.strings", stop.strings, MOST_STOP_STRINGS, MOST_STOP_CHARACTERS)
    _check_count("stop.token_ids", len(stop.token_ids), MOST_STOP_IDS)
    if stop.max_tokens is not None and stop.min_tokens > stop.max_tokens:
        raise InvalidRequest(
            "stop.min_tokens", f"{stop.min_tokens} is more than max_tokens, {stop.max_tokens}"
        )


def check_output(output: OutputOptions) -> None:
    """Check the contents of the answer.

    Raises:
        InvalidRequest: more alternatives are asked for than are sent.
    """
    if output.logprobs is not None and output.logprobs > MOST_LOGPROBS:
        raise InvalidRequest("output.logprobs", f"{output.logprobs} is more than {MOST_LOGPROBS}")
