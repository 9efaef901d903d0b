"""What a router submits becomes what the engine runs, or is refused by the name of its fault."""

import math
import re

import numpy as np
import pytest

from chassis.errors import InvalidRequest
from chassis.memory.shared_file import PeerFiles
from model_svc.serving.submission import Limits, read_submit
from protos import generation_pb2, memory_pb2, model_pb2

LIMITS = Limits(vocab_size=100, tokens=32, eos_token_ids=frozenset({99}))


def ids(*tokens):
    return np.array(tokens, "<i4").tobytes()


def submit(**fields):
    message = model_pb2.Submit(**{"handle": 1, "attempt": 1, "ids": ids(1, 2, 3), **fields})
    message.stop.max_tokens = 4
    message.sampling.n = 2
    return message


def read(message):
    return read_submit(message, PeerFiles(), LIMITS)


def earlier(*tokens, candidate=0, finished=False):
    return model_pb2.Progress(candidate=candidate, ids=ids(*tokens), finished=finished)


def words(*sequences):
    return [generation_pb2.TokenIds(ids=sequence) for sequence in sequences]


def test_a_new_request_has_its_prompt_and_the_checkpoints_endings():
    spec = read(submit(priority=-1, request_id="r"))

    assert (spec.prompt.tolist(), spec.candidates, spec.max_tokens) == ([1, 2, 3], 2, 4)
    assert (spec.stop_ids, spec.priority, spec.request_id) == (frozenset({99}), -1, "r")
    assert not spec.progress


def test_a_request_that_returns_brings_what_its_candidates_had_produced():
    spec = read(submit(attempt=2, progress=[earlier(5, 6, candidate=1), earlier(finished=True)]))

    assert spec.attempt == 2
    assert {i: (one.ids.tolist(), one.finished) for i, one in spec.progress.items()} == {
        0: ([], True),
        1: ([5, 6], False),
    }


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"ids": b""}, "prompt: is empty"),
        ({"ids": b"12345"}, "ids: 5 bytes are no whole ids"),
        ({"ids": ids(1, 5, 100)}, "prompt: id 100 at position 2 is not below 100"),
        ({"ids": ids(5, -1)}, "prompt: id -1 at position 1 is below 0"),
        ({"ids": ids(*[1] * 29)}, "stop.max_tokens: 33 tokens wanted, 32 fit"),
        ({"slab": memory_pb2.Span(name="unknown")}, "slab: cannot be read"),
        ({"progress": [earlier(candidate=2)]}, "progress: candidate 2 is told twice or there is"),
        ({"progress": [earlier(), earlier(1)]}, "progress: candidate 0 is told twice"),
        ({"progress": [earlier(100)]}, "progress: id 100 at position 0 is not below 100"),
        ({"progress": [earlier(-5)]}, "progress: id -5 at position 0 is below 0"),
        ({"ids": bytes(4 * 10**6)}, "stop.max_tokens: 1000004 tokens wanted, 32 fit"),
        ({"slab": memory_pb2.Span(offset=2**64 - 1, length=2**64 - 1)}, "slab: cannot be read"),
        ({"logprobs": 21}, "output.logprobs: 21 is more than 20"),
        ({"bad_words": words([100])}, "sampling.bad_words: id 100 is not below 100"),
        ({"bad_words": words([1], [])}, "sampling.bad_words: one has no ids"),
        ({"bad_words": words(*[[1]] * 257)}, "sampling.bad_words: 257 are more than 256"),
        ({"bad_words": words([1] * 2**19)}, "sampling.bad_words: 524288 ids in all are more than"),
        ({"progress": [earlier(1, 2, 3, 4, 5)]}, "progress: has 5 ids, and max_tokens is 4"),
        ({"progress": [model_pb2.Progress(ids=b"123")]}, "progress: 3 bytes are no whole ids"),
    ],
)
def test_what_cannot_run_is_refused_by_its_fault(fields, fault):
    with pytest.raises(InvalidRequest, match=re.escape(fault)):
        read(submit(**fields))


def test_a_request_without_a_prompt_is_refused():
    with pytest.raises(InvalidRequest, match="prompt: missing"):
        read(model_pb2.Submit())


@pytest.mark.parametrize(
    ("sampling", "stop", "fault"),
    [
        ({"n": 17}, {}, "sampling.n: 17 is more than 16"),
        ({"n": 2**32 - 1}, {}, "sampling.n: 4294967295 is more than 16"),
        ({"temperature": math.nan}, {}, "sampling.temperature: nan is not at least 0"),
        ({"temperature": -0.5}, {}, "sampling.temperature: -0.5 is not at least 0"),
        ({"temperature": math.inf}, {}, "sampling.temperature: inf is not at least 0"),
        ({"top_p": 0.0}, {}, "sampling.top_p: 0 is not in (0, 1]"),
        ({"top_p": 1e-50}, {}, "sampling.top_p: 0 is not in (0, 1]"),
        ({"min_p": 1.5}, {}, "sampling.min_p: 1.5 is not in [0, 1]"),
        ({"repetition_penalty": 0.0}, {}, "sampling.repetition_penalty: 0 is not above 0"),
        ({"presence_penalty": math.inf}, {}, "sampling.presence_penalty: inf is not finite"),
        ({"frequency_penalty": math.nan}, {}, "sampling.frequency_penalty: nan is not finite"),
        ({"logit_bias": {3: math.nan}}, {}, "sampling.logit_bias: nan of id 3 is neither"),
        ({"logit_bias": {3: math.inf}}, {}, "sampling.logit_bias: inf of id 3 is neither"),
        ({"logit_bias": {100: 1.0}}, {}, "sampling.logit_bias: id 100 is not below 100"),
        ({"logit_bias": dict.fromkeys(range(101), 1.0)}, {}, "sampling.logit_bias: has 101 ids"),
        ({}, {"token_ids": [2**32 - 1]}, "stop.token_ids: id 4294967295 is not below 100"),
        ({}, {"token_ids": [1] * 10**6}, "stop.token_ids: has 1000000 ids"),
        ({}, {"max_tokens": 2**32 - 1}, "stop.max_tokens: 4294967298 tokens wanted, 32 fit"),
    ],
)
def test_what_the_engine_cannot_draw_with_is_refused_by_its_field(sampling, stop, fault):
    message = submit()
    message.sampling.MergeFrom(generation_pb2.SamplingParams(**sampling))
    message.stop.MergeFrom(generation_pb2.StopConditions(**stop))

    with pytest.raises(InvalidRequest, match=re.escape(fault)):
        read(message)


def test_extremes_are_accepted():
    message = submit(logprobs=20, priority=-(2**31), attempt=2**32 - 1)
    message.stop.min_tokens = 2**32 - 1
    message.stop.token_ids.extend(range(100))
    message.sampling.MergeFrom(
        generation_pb2.SamplingParams(
            temperature=1e-45,
            top_p=1e-45,
            top_k=2**32 - 1,
            min_p=1.0,
            repetition_penalty=1e-45,
            presence_penalty=3e38,
            frequency_penalty=-3e38,
            seed=2**64 - 1,
            n=16,
            logit_bias=dict.fromkeys(range(100), -math.inf),
        )
    )

    spec = read(message)

    assert (spec.candidates, spec.sampling.seed, len(spec.stop_ids)) == (16, 2**64 - 1, 100)
    assert set(spec.sampling.logit_bias.values()) == {-math.inf}


def test_bad_words_are_sequences_of_ids_each_once():
    spec = read(submit(bad_words=words([7], [7, 8], [7], [99])))

    assert spec.sampling.bad_sequences == ((7,), (7, 8), (99,))
    assert not spec.sampling.plain
