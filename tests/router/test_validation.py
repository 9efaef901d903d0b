from __future__ import annotations

import math

import pytest

from chassis.errors import InvalidRequest, NotFound
from protos import generation_pb2
from router import validation
from router.validation import Limits

LIMITS = Limits(model="m", context_length=100, vocab_size=50, kv_slots=1000)
SMALL_POOL = Limits(model="m", context_length=100, vocab_size=50, kv_slots=40)


def request(**fields):
    if not {"token_ids", "chat"} & fields.keys():
        fields.setdefault("text", "hello")
    return generation_pb2.GenerateRequest(**fields)


def sampling(**fields):
    return request(sampling=generation_pb2.SamplingParams(**fields))


def stop(**fields):
    return request(stop=generation_pb2.StopConditions(**fields))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (generation_pb2.GenerateRequest(), "prompt"),
        (request(chat=generation_pb2.Chat()), "chat.messages"),
        (sampling(temperature=-0.1), "sampling.temperature"),
        (sampling(temperature=math.nan), "sampling.temperature"),
        (sampling(temperature=math.inf), "sampling.temperature"),
        (sampling(top_p=0), "sampling.top_p"),
        (sampling(top_p=1.01), "sampling.top_p"),
        (sampling(top_p=math.nan), "sampling.top_p"),
        (sampling(min_p=-0.01), "sampling.min_p"),
        (sampling(min_p=1.01), "sampling.min_p"),
        (sampling(repetition_penalty=0), "sampling.repetition_penalty"),
        (sampling(repetition_penalty=math.inf), "sampling.repetition_penalty"),
        (sampling(presence_penalty=math.nan), "sampling.presence_penalty"),
        (sampling(frequency_penalty=-math.inf), "sampling.frequency_penalty"),
        (sampling(logit_bias={3: math.nan}), "sampling.logit_bias"),
        (sampling(n=0), "sampling.n"),
        (sampling(n=17), "sampling.n"),
        (stop(strings=["a", ""]), "stop.strings"),
        (stop(strings=["a"] * 65), "stop.strings"),
        (stop(strings=["a" * 16_385]), "stop.strings"),
        (stop(max_tokens=3, min_tokens=4), "stop.min_tokens"),
        (request(output=generation_pb2.OutputOptions(logprobs=21)), "output.logprobs"),
    ],
)
def test_what_is_out_of_range_is_named(bad, field):
    with pytest.raises(InvalidRequest) as error:
        validation.check_request(bad)
    assert error.value.field == field


def test_every_bound_itself_is_allowed():
    validation.check_request(
        request(
            sampling=generation_pb2.SamplingParams(
                temperature=0,
                top_p=1,
                min_p=1,
                top_k=0,
                repetition_penalty=0.01,
                presence_penalty=-2,
                frequency_penalty=2,
                logit_bias={3: -100},
                n=16,
            ),
            stop=generation_pb2.StopConditions(max_tokens=4, min_tokens=4, strings=["x"]),
            output=generation_pb2.OutputOptions(logprobs=20),
        )
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(token_ids=generation_pb2.TokenIds(ids=[1, 50, 2])), "token_ids.ids"),
        (stop(token_ids=[50]), "stop.token_ids"),
        (sampling(logit_bias={50: 1.0}), "sampling.logit_bias"),
    ],
)
def test_an_unknown_id_is_named_with_the_limit(bad, field):
    with pytest.raises(InvalidRequest, match=r"unknown token id 50: ids are below 50") as error:
        validation.check_against(bad, LIMITS)
    assert error.value.field == field


def test_another_model_is_not_found_and_none_means_the_only_one():
    with pytest.raises(NotFound, match="no model 'other' is served; there is 'm'"):
        validation.check_against(request(model="other"), LIMITS)
    validation.check_against(request(model="m"), LIMITS)
    validation.check_against(request(), LIMITS)


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "limits", "field", "words"),
    [
        (0, None, LIMITS, "text", "no tokens"),
        (101, None, LIMITS, "text", "101 tokens, more than the 100 of the model's context"),
        (41, 0, SMALL_POOL, "text", "41 tokens, more than the 40 of the KV pool"),
        (100, None, LIMITS, "text", "100 tokens leave no room for output in the 100"),
        (
            99,
            2,
            LIMITS,
            "stop.max_tokens",
            "99 tokens and max_tokens 2 make 101, more than",
        ),
        (30, 11, SMALL_POOL, "stop.max_tokens", "make 41, more than the 40 of the KV pool"),
    ],
)
def test_lengths_that_cannot_fit_are_told_with_both_numbers(
    prompt_tokens, max_tokens, limits, field, words
):
    bad = request() if max_tokens is None else stop(max_tokens=max_tokens)
    with pytest.raises(InvalidRequest, match=words) as error:
        validation.resolve(bad, prompt_tokens, limits)
    assert error.value.field == field


def test_unset_max_tokens_is_what_context_and_pool_leave():
    assert validation.resolve(request(), 10, LIMITS).max_tokens == 90
    assert validation.resolve(request(), 10, SMALL_POOL).stop.max_tokens == 30


def test_min_tokens_beyond_the_room_is_told():
    with pytest.raises(InvalidRequest, match="91 is more than max_tokens, 90"):
        validation.resolve(stop(min_tokens=91), 10, LIMITS)


def test_a_prompt_as_long_as_the_context_may_be_scored():
    assert validation.resolve(stop(max_tokens=0), 100, LIMITS).max_tokens == 0


def test_an_unset_seed_is_drawn_and_a_set_one_kept():
    drawn = {validation.resolve(request(), 1, LIMITS).sampling.seed for _ in range(3)}
    assert len(drawn) == 3
    assert validation.resolve(sampling(seed=0), 1, LIMITS).sampling.seed == 0
    assert validation.resolve(request(), 1, LIMITS).candidates == 1


def test_resolving_leaves_the_request_as_it_was():
    sent = request()
    validation.resolve(sent, 1, LIMITS)
    assert sent == request()


@pytest.mark.parametrize("label", ["x" * 257, "line\nbreak", "naïve"])
def test_a_label_that_cannot_be_metadata_is_refused(label):
    with pytest.raises(InvalidRequest, match="request_id"):
        validation.check_request_id(label)
