from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import generation_pb2
from router.api.requests import generation_request
from router.requests.prompt_arena import Prompt
from router.requests.request import FIRST_ATTEMPT, RouterRequest
from router.requests.results import Delta, Finish
from router.requests.validation import Limits, resolve

LIMITS = Limits(model="m", context_length=1000, vocab_size=50, kv_slots=1000)
LENGTH = Finish.LENGTH


def live_request(candidates=1, prompt_tokens=3, **output):
    request = generation_pb2.GenerateRequest(text="x")
    request.sampling.n = candidates
    request.output.CopyFrom(generation_pb2.OutputOptions(token_ids=True, **output))
    plan = resolve(generation_request(request), prompt_tokens, LIMITS)
    return RouterRequest(1, "id", plan, Prompt(prompt_tokens, None, bytes(4 * prompt_tokens)), 1)


def delta(position, ids, *, text="", attempt=FIRST_ATTEMPT, candidate=0, **more):
    return Delta(
        handle=1,
        attempt=attempt,
        candidate=candidate,
        position=position,
        token_ids=ids,
        text=text,
        **more,
    )


@pytest.fixture
async def live():
    return live_request()


async def test_each_position_is_taken_once(live):
    assert live.take(delta(0, [1, 2], text="ab"), 0)
    assert not live.take(delta(0, [1, 2], text="ab"), 1)
    assert not live.take(delta(3, [4], text="d"), 2)
    assert live.take(delta(2, [3], text="c"), 3)
    assert list(live.candidates[0].ids) == [1, 2, 3]
    assert live.candidates[0].text_length == 3


async def test_another_attempt_is_not_heard(live):
    assert not live.take(delta(0, [1], attempt=FIRST_ATTEMPT - 1), 0)
    assert not live.take(delta(0, [1], attempt=FIRST_ATTEMPT + 1), 0)
    assert live.completion_tokens == 0


async def test_nothing_is_heard_after_an_ending(live):
    live.take(delta(0, [1], finish=LENGTH), 0)
    assert live.finished
    assert not live.take(delta(1, [2]), 1)


async def test_a_candidate_that_was_not_asked_for_is_not_heard(live):
    assert not live.take(delta(0, [1], candidate=1), 0)


async def test_text_that_was_held_back_comes_without_a_token(live):
    live.take(delta(0, [1]), 0)
    assert live.take(delta(1, [], text="é", finish=LENGTH), 1)
    assert [part.text for part in await live.buffer.take()] == ["é"]


async def test_it_ends_when_all_candidates_have():
    live = live_request(candidates=2)
    live.take(delta(0, [1], finish=LENGTH), 0)
    assert not live.finished
    live.take(delta(0, [1], candidate=1, finish=LENGTH), 0)
    assert live.finished
    assert live.completion_tokens == 2


async def test_the_first_output_is_a_token_and_no_score_of_the_prompt():
    live = live_request(prompt_logprobs=True)
    scores = [generation_pb2.TokenLogprob(token_id=1)]
    live.take(delta(0, [], prompt_logprobs=scores), 0)
    assert live.first_output is None

    live.take(delta(0, [5]), 1)
    assert live.first_output is not None


async def test_the_first_message_waits_for_all_of_the_prompts_logprobs():
    live = live_request(prompt_tokens=3, prompt_logprobs=True)
    scores = [generation_pb2.TokenLogprob(token_id=i, logprob=-i) for i in range(3)]
    live.take(delta(0, [], prompt_logprobs=scores[:2]), 0)
    live.take(delta(0, [], prompt_logprobs=scores[1:2], prompt_position=1), 1)
    live.take(delta(0, [5], text="a", finish=LENGTH), 2)
    assert live.buffer._withheld
    assert not live.finished
    live.take(delta(1, [], prompt_logprobs=scores[2:], prompt_position=2), 3)

    assert live.finished
    assert live.prompt_logprobs == scores
    assert [part.text for part in await live.buffer.take()] == ["a"]
    assert live.buffer.drained


@given(st.data())
async def test_any_mixture_of_repeats_and_strangers_gives_each_token_once(data):
    live = live_request()
    ids = list(range(12))
    cuts = sorted(data.draw(st.sets(st.integers(1, 11)), label="cuts"))
    spans = list(zip([0, *cuts], [*cuts, 12], strict=True))
    for i, (start, end) in enumerate(spans):
        for _ in range(data.draw(st.integers(0, 2), label="noise")):
            again = data.draw(st.sampled_from(spans[:i] or [(99, 99)]))
            live.take(delta(again[0], ids[slice(*again)]), i)
            live.take(delta(start, ids[start:end], attempt=FIRST_ATTEMPT + 1), i)
        live.take(delta(start, ids[start:end]), i)

    assert list(live.candidates[0].ids) == ids
