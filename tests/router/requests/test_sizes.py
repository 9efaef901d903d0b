"""Prompts and answers that cannot fit are refused before the work."""

from __future__ import annotations

from typing import Any

import pytest

from chassis.errors import InvalidRequest
from protos import generation_pb2 as g
from router.api.requests import generation_request
from router.requests import validation
from router.requests.sizes import Sizes, fit_answer
from router.requests.validation import Limits

MIB = 1 << 20
SIZES = Sizes(message_bytes=32 * MIB, text_bytes=MIB, prompt_ids=4096, bytes_per_id=16)
UNKNOWN = Sizes(message_bytes=32 * MIB, text_bytes=MIB)


@pytest.mark.parametrize(
    ("sizes", "size", "truncated", "words"),
    [
        (SIZES, 65_537, False, "65537 bytes, which are 4097 tokens or more: more than the 4096"),
        (SIZES, MIB + 1, True, "1048577 bytes, more than the 1048576"),
        (UNKNOWN, MIB + 1, False, "1048577 bytes, more than the 1048576"),
    ],
)
def test_a_text_that_cannot_fit_is_told_both_numbers(
    sizes: Sizes, size: int, truncated: bool, words: str
) -> None:
    sizes.check_text("text", size - 1, truncated=truncated)
    with pytest.raises(InvalidRequest, match=words):
        sizes.check_text("text", size, truncated=truncated)


LIMITS = Limits(model="m", context_length=1 << 17, vocab_size=50, kv_slots=1 << 20)


def plan(prompt_tokens: int = 10, **fields: Any) -> validation.Plan:
    return validation.resolve(
        generation_request(g.GenerateRequest(text="x", **fields)), prompt_tokens, LIMITS
    )


def fit(asked: validation.Plan, *, whole: bool = True, bounded: bool = True) -> validation.Plan:
    return fit_answer(asked, SIZES, whole=whole, bounded=bounded)


SCORES = g.OutputOptions(logprobs=20)


def test_an_answer_that_may_not_fit_is_refused_before_the_work() -> None:
    asked = plan(stop=g.StopConditions(max_tokens=100_000), output=SCORES)
    with pytest.raises(InvalidRequest, match=r"1 times 100000 tokens may take \d+ bytes") as error:
        fit(asked)
    assert error.value.field == "stop.max_tokens"
    assert fit(asked, whole=False) == asked, "a stream has a message for each step"


def test_candidates_share_an_answer() -> None:
    stop, output = g.StopConditions(max_tokens=100_000), g.OutputOptions(token_ids=True)
    assert fit(plan(stop=stop, output=output)).max_tokens == 100_000
    with pytest.raises(InvalidRequest, match="16 times 100000"):
        fit(plan(stop=stop, output=output, sampling=g.SamplingParams(n=16)))


def test_unset_max_tokens_is_what_an_answer_has_room_for() -> None:
    fitted = fit(plan(output=SCORES), bounded=False)
    assert 10_000 < fitted.max_tokens < 100_000
    assert fit(plan(), bounded=False).max_tokens == LIMITS.context_length - 10


@pytest.mark.parametrize("whole", [True, False])
def test_a_prompt_whose_scores_may_not_fit_is_refused(whole: bool) -> None:
    output = g.OutputOptions(prompt_logprobs=True, logprobs=20)
    asked = plan(100_000, output=output, stop=g.StopConditions(max_tokens=1))
    with pytest.raises(InvalidRequest, match="100000 prompt tokens may take") as error:
        fit(asked, whole=whole)
    assert error.value.field == "output.prompt_logprobs"
    output = g.OutputOptions(prompt_logprobs=True)
    fit(plan(100_000, output=output, stop=g.StopConditions(max_tokens=1)), whole=whole)
