"""A stream's messages joined, and answers compared."""

import dataclasses

import pytest

from bench.faults.clients.answers import Disorder, Joiner, differences, of_completion
from triptych.client.results import (
    CandidateText,
    Completion,
    Delta,
    FinishReason,
    PromptEcho,
    TokenLogprob,
    Usage,
)

LENGTH = FinishReason.LENGTH
SCORE = TokenLogprob(7, b"a", -0.5, (TokenLogprob(8, b"b", -1.5),))


def joined(*deltas):
    joiner = Joiner()
    for delta in deltas:
        joiner.add(delta)
    return joiner.answer()


def part(text, *, index=0, finish=None, ids=(), logprobs=()):
    return CandidateText(index, text, tuple(ids), finish, None, None, tuple(logprobs))


def delta(*parts, usage=None, prompt=None):
    return Delta("id", parts, usage, prompt)


def test_a_stream_and_a_unary_call_of_the_same_content_give_equal_answers():
    stream = joined(
        delta(part("b", index=1)),
        delta(part("a", ids=[1], logprobs=[SCORE])),
        delta(
            part("c", ids=[2], finish=LENGTH, logprobs=[SCORE]), part("", index=1, finish=LENGTH)
        ),
        delta(usage=Usage(3, 4, 0)),
    )
    unary = Completion(
        "other id",
        (
            part("ac", ids=[1, 2], finish=LENGTH, logprobs=[SCORE, SCORE]),
            part("b", index=1, finish=LENGTH),
        ),
        Usage(3, 4, 2),
    )

    assert differences(of_completion(unary), stream) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"text": "ax"}, "text"),
        ({"text": "abc"}, "text"),
        ({"token_ids": (1, 3)}, "token_ids"),
        ({"finish_reason": FinishReason.STOP}, "finish_reason"),
        ({"matched_stop": "b"}, "matched_stop"),
        ({"matched_token_id": 3}, "matched_token_id"),
        ({"logprobs": (dataclasses.replace(SCORE, logprob=-0.5000001),)}, "logprobs"),
        ({"logprobs": (dataclasses.replace(SCORE, top=()),)}, "logprobs"),
    ],
)
def test_any_change_of_a_candidate_is_a_difference(change, named):
    whole = part("ab", ids=[1, 2], finish=LENGTH, logprobs=[SCORE])
    expected = joined(delta(whole, usage=Usage(3, 2, 0)))
    got = joined(delta(dataclasses.replace(whole, **change), usage=Usage(3, 2, 0)))

    (difference,) = differences(expected, got)

    assert difference.startswith(f"candidate 0: {named}: ")


@pytest.mark.parametrize(
    "got",
    [
        joined(delta(part("a", finish=LENGTH), usage=Usage(3, 1, 0))),
        joined(
            delta(part("a", finish=LENGTH), usage=Usage(3, 2, 0), prompt=PromptEcho((), (), ""))
        ),
        joined(
            delta(part("a", finish=LENGTH), prompt=PromptEcho((), (), "")),
            delta(part("", index=1, finish=LENGTH), usage=Usage(3, 1, 0)),
        ),
        joined(
            delta(part("a", finish=LENGTH), usage=Usage(3, 1, 0), prompt=PromptEcho((1,), (), ""))
        ),
    ],
    ids=["no prompt", "usage", "one more candidate", "prompt"],
)
def test_so_is_one_of_usage_prompt_or_number_of_candidates(got):
    expected = joined(
        delta(part("a", finish=LENGTH), usage=Usage(3, 1, 0), prompt=PromptEcho((), (), ""))
    )

    assert len(differences(expected, got)) == 1


def test_a_difference_tells_where_it_begins():
    usage = Usage(3, 1, 0)
    expected = joined(delta(part("hello world", finish=LENGTH), usage=usage))
    got = joined(delta(part("hello", finish=LENGTH), usage=usage))

    assert differences(expected, got) == [
        "candidate 0: text: from 5 on (of 11 and 5) '', not ' world'"
    ]


@pytest.mark.parametrize(
    "deltas",
    [
        [delta(part("a", finish=LENGTH))],
        [delta(part("a"), usage=Usage(1, 1, 0))],
        [delta(part("a", finish=LENGTH)), delta(part("b"), usage=Usage(1, 2, 0))],
        [delta(part("a", finish=LENGTH), usage=Usage(1, 1, 0)), delta(part("", index=1))],
        [delta(part("a")), delta(part("b", finish=LENGTH), prompt=PromptEcho((), (), ""))],
    ],
    ids=["no usage", "no end", "more after the end", "more after the usage", "prompt too late"],
)
def test_a_stream_out_of_order_is_refused(deltas):
    with pytest.raises(Disorder):
        joined(*deltas)
