"""What a router submits becomes what the engine runs, or is refused by the name of its fault."""

import numpy as np
import pytest

from chassis.errors import InvalidRequest
from chassis.shared_file import PeerFiles
from model_svc.submission import Limits, read_submit
from protos import memory_pb2, model_pb2

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
        ({"ids": ids(1, 100)}, "prompt: has ids outside 0 to 99"),
        ({"ids": ids(-1)}, "prompt: has ids outside 0 to 99"),
        ({"ids": ids(*[1] * 29)}, "stop.max_tokens: 33 tokens wanted, 32 fit"),
        ({"slab": memory_pb2.Span(name="unknown")}, "slab: cannot be read"),
        ({"progress": [earlier(candidate=2)]}, "progress: candidate 2 is told twice or there is"),
        ({"progress": [earlier(), earlier(1)]}, "progress: candidate 0 is told twice"),
        ({"progress": [earlier(100)]}, "progress: has ids outside 0 to 99"),
        ({"progress": [earlier(-5)]}, "progress: has ids outside 0 to 99"),
        ({"progress": [earlier(1, 2, 3, 4, 5)]}, "progress: has 5 ids, and max_tokens is 4"),
        ({"progress": [model_pb2.Progress(ids=b"123")]}, "progress: 3 bytes are no whole ids"),
    ],
)
def test_what_cannot_run_is_refused_by_its_fault(fields, fault):
    with pytest.raises(InvalidRequest, match=fault):
        read(submit(**fields))
