from __future__ import annotations

import math

import pytest

from chassis.errors import InvalidRequest, NotFound
from protos import generation_pb2
from router.api.requests import generation_request
from router.requests import validation
from router.requests.parameters import SamplingParams
from router.requests.validation import Limits

LIMITS = Limits(model="m", context_length=100, vocab_size=50, kv_slots=1000)
SMALL_POOL = Limits(model="m", context_length=100, vocab_size=50, kv_slots=40)


def request(**fields):
    if not {"token_ids", "chat"} & fields.keys():
        fields.setdefault("text", "hello")
    return generation_request(generation_pb2.GenerateRequest(**fields))


def sampling(**fields):
    return request(sampling=generation_pb2.SamplingParams(**fields))


def stop(**fields):
    return request(stop=generation_pb2.StopConditions(**fields))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
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
        (sampling(logit_bias={3: math.inf}), "sampling.logit_bias"),
        (sampling(logit_bias=dict.fromkeys(range(1025), 1.0)), "sampling.logit_bias"),
        (sampling(bad_words=["a", ""]), "sampling.bad_words"),
        (sampling(bad_words=["a"] * 65), "sampling.bad_words"),
        (sampling(bad_words=["a" * 8192, "b" * 8193]), "sampling.bad_words"),
        (stop(token_ids=[1] * 1025), "stop.token_ids"),
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
                logit_bias={3: -math.inf},
                bad_words=["a" * 256] * 64,
                n=16,
            ),
            stop=generation_pb2.StopConditions(max_tokens=4, min_tokens=4, strings=["x"]),
            output=generation_pb2.OutputOptions(logprobs=20),
        )
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (stop(token_ids=[50]), "stop.token_ids"),
        (sampling(logit_bias={50: 1.0}), "sampling.logit_bias"),
    ],
)
def test_an_unknown_id_is_named_with_the_limit(bad, field):
    with pytest.raises(InvalidRequest, match=r"unknown token id 50: ids are below 50") as error:
        validation.check_against(bad, LIMITS)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "no tokens"),
        ([1, 50, 2], "unknown token id 50: ids are below 50"),
        ([1] * 101, "101 tokens, more than the 100 of the model's context"),
        ([50] * 101, "101 tokens"),  # what is too long is not walked
    ],
)
def test_ids_that_cannot_be_a_prompt_are_told(bad, words):
    with pytest.raises(InvalidRequest, match=words) as error:
        validation.kept_ids(bad, 0, LIMITS)
    assert error.value.field == "prompt"


def test_kept_ids_are_checked():
    with pytest.raises(InvalidRequest, match="unknown token id 50"):
        validation.kept_ids([1, 50], 1, LIMITS)


@pytest.mark.parametrize(
    ("most", "kept"), [(0, [1, 2, 3]), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])]
)
def test_the_last_ids_of_a_longer_prompt_are_kept(most, kept):
    assert list(validation.kept_ids([1, 2, 3], most, LIMITS)) == kept


def test_what_is_cut_off_may_be_longer_than_the_context():
    assert list(validation.kept_ids([99] * 500 + [7], 1, LIMITS)) == [7]


def test_more_ids_than_the_context_has_cannot_be_kept():
    with pytest.raises(InvalidRequest, match="101 is more than the 100 of the model") as error:
        validation.check_against(request(truncate_prompt_tokens=101), LIMITS)
    assert error.value.field == "truncate_prompt_tokens"
    validation.check_against(request(truncate_prompt_tokens=100), LIMITS)


def test_another_model_is_not_found_and_none_means_the_only_one():
    with pytest.raises(NotFound, match="no model 'other' is served; there is 'm'"):
        validation.check_against(request(model="other"), LIMITS)
    validation.check_against(request(model="m"), LIMITS)
    validation.check_against(request(), LIMITS)


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "limits", "field", "words"),
    [
        (0, None, LIMITS, "prompt", "no tokens"),
        (101, None, LIMITS, "prompt", "101 tokens, more than the 100 of the model's context"),
        (41, 0, SMALL_POOL, "prompt", "41 tokens, more than the 40 of the KV pool"),
        (100, None, LIMITS, "prompt", "100 tokens leave no room for output in the 100"),
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
    assert validation.resolve(request(), 10, SMALL_POOL).max_tokens == 30


def test_min_tokens_beyond_the_room_is_told():
    with pytest.raises(InvalidRequest, match="91 is more than max_tokens, 90"):
        validation.resolve(stop(min_tokens=91), 10, LIMITS)


def test_a_prompt_as_long_as_the_context_may_be_scored():
    assert validation.resolve(stop(max_tokens=0), 100, LIMITS).max_tokens == 0


def test_an_unset_seed_is_drawn_and_a_set_one_kept():
    drawn = {validation.resolve(request(), 1, LIMITS).seed for _ in range(3)}
    assert len(drawn) == 3
    assert validation.resolve(sampling(seed=0), 1, LIMITS).seed == 0
    assert validation.resolve(request(), 1, LIMITS).candidates == 1


def test_resolving_leaves_the_request_as_it_was():
    sent = request()
    validation.resolve(sent, 1, LIMITS)
    assert sent == request()


@pytest.mark.parametrize("label", ["x" * 257, "line\nbreak", "naïve"])
def test_a_label_that_cannot_be_metadata_is_refused(label):
    with pytest.raises(InvalidRequest, match="request_id"):
        validation.check_request_id(label)


DEFAULTS = Limits(
    model="m",
    context_length=100,
    vocab_size=50,
    kv_slots=1000,
    defaults=SamplingParams(temperature=0.6, top_k=20, logit_bias={1: 2.0}),
)


def test_defaults_hold_where_a_request_sets_nothing():
    resolved = validation.resolve(request(), 1, DEFAULTS).sampling
    assert (round(resolved.temperature, 3), resolved.top_k) == (0.6, 20)
    assert resolved.top_p is None
    assert resolved.logit_bias == {1: 2.0}


def test_what_a_request_sets_holds_even_where_it_is_zero():
    resolved = validation.resolve(sampling(temperature=0, top_k=0), 1, DEFAULTS).sampling
    assert (resolved.temperature, resolved.top_k) == (0, 0)
