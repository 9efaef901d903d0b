"""The GPU's kernels in the real service, interpreted: the tokens that the CPU's operations give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.deployments import local

from protos import generation_pb2 as g

PROMPTS = [
    "The quick brown fox jumps over the dog.",
    "a",
    "Tokens are laid end to end",
    "def main():",
]
MAX_TOKENS = 5
# Steps this small cut most of the prompts in pieces.
OPTIONS = ("--dtype", "float32", "--name", "tiny", "--max-batch-tokens", "24")


@pytest.fixture(scope="module")
def pair(tiny) -> Iterator[tuple[local.Deployment, local.Deployment]]:
    with (
        local.deployed(tiny, *OPTIONS, "--device", "cpu") as cpu,
        local.deployed(tiny, *OPTIONS, "--device", "interpret") as interpreted,
    ):
        yield cpu, interpreted


def answers(deployment: local.Deployment, requests: list[g.GenerateRequest]) -> list:
    """All requests at once, so that they share steps."""
    calls = [deployment.api.Generate.future(request, timeout=240) for request in requests]
    return [call.result() for call in calls]


def request(text: str, **sampling: float) -> g.GenerateRequest:
    message = g.GenerateRequest(text=text, sampling=g.SamplingParams(**sampling))
    message.stop.max_tokens = MAX_TOKENS
    message.stop.ignore_eos = True
    message.output.token_ids = True
    return message


def ids(replies: list) -> list[list[int]]:
    return [list(one.token_ids) for reply in replies for one in reply.candidates]


def test_greedy_tokens_of_a_batch_are_the_cpus(pair) -> None:
    requests = [request(text, temperature=0.0) for text in PROMPTS]
    requests[1].output.logprobs = 2

    want, got = (answers(deployment, requests) for deployment in pair)

    assert ids(got) == ids(want)
    assert all(len(tokens) == MAX_TOKENS for tokens in ids(got))
    mine, theirs = (replies[1].candidates[0].logprobs for replies in (got, want))
    assert [one.logprob for one in mine] == pytest.approx([one.logprob for one in theirs], abs=1e-4)
    assert [[top.token_id for top in one.top] for one in mine] == [
        [top.token_id for top in one.top] for one in theirs
    ]
    assert len(mine) == MAX_TOKENS


def test_sampled_tokens_of_a_batch_are_the_cpus(pair) -> None:
    options = [{}, {"top_k": 7}, {"top_p": 0.8, "n": 2}, {"min_p": 0.05, "presence_penalty": 0.5}]
    requests = [
        request(text, seed=7, temperature=1.0, **choices)
        for text, choices in zip(PROMPTS, options, strict=True)
    ]

    want, got = (answers(deployment, requests) for deployment in pair)

    assert ids(got) == ids(want)
    assert len(ids(got)) == 5
