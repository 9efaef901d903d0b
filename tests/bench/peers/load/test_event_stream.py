"""Event streams, cut wherever the network may cut them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers.load.event_stream import EventStream
from bench.peers.load.http_requests import HTTP_SPEECHES, Usage

EVENTS = [{"text": "a\n\nb"}, {"text": ""}, {"usage": {"prompt_tokens": 7}}]
WIRE = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in EVENTS)


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_events_are_counted_however_they_are_cut(places):
    stream = EventStream()
    ends = [0, *sorted(places), len(WIRE)]

    counted = sum(stream.feed(WIRE[start:end]) for start, end in pairwise(ends))

    assert counted == stream.events == 3
    assert stream.last() == EVENTS[-1]


def test_the_word_that_ends_a_stream_and_comments_are_no_events():
    stream = EventStream()

    assert stream.feed(b": ping\n\n" + WIRE + b"data: [DONE]\n\n") == 3
    assert stream.last() == EVENTS[-1]


def test_half_an_event_is_not_counted():
    stream = EventStream()

    assert stream.feed(b'data: {"text"') == 0
    assert stream.last() == {}


def test_a_last_event_that_is_no_object_is_refused():
    stream = EventStream()
    stream.feed(b"data: 5\n\n")

    with pytest.raises(ValueError, match="5"):
        stream.last()


@pytest.mark.parametrize(
    ("speech", "last"),
    [
        ("llama.cpp", {"stop": True, "tokens_evaluated": 110, "tokens_predicted": 64}),
        ("vllm", {"choices": [], "usage": {"prompt_tokens": 110, "completion_tokens": 64}}),
    ],
)
def test_both_protocols_tell_their_tokens_at_the_end(speech, last):
    assert HTTP_SPEECHES[speech].usage(last) == Usage(110, 64)


@pytest.mark.parametrize("speech", ["llama.cpp", "vllm"])
def test_both_are_asked_for_a_greedy_answer_of_one_length(speech):
    body = json.loads(HTTP_SPEECHES[speech].body("some text", 64))

    assert body["prompt"] == "some text"
    assert body.get("temperature") == 0 or (body["samplers"], body["top_k"]) == (["top_k"], 1)
    assert body["ignore_eos"] is True
    assert body["stream"] is True
    assert 64 in (body.get("n_predict"), body.get("max_tokens"))


def test_llama_cpp_is_told_to_forget_each_prompt():
    assert json.loads(HTTP_SPEECHES["llama.cpp"].body("x", 1))["cache_prompt"] is False
