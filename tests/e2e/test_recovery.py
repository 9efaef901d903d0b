"""A service is killed under running requests, and each ends as if nothing had happened."""

import os
import queue
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.deployments import local

from bench.faults.clients.answers import Joiner, differences, of_completion
from triptych import Client, Options

WITHIN_S = 90
MESSAGES_BEFORE = 40  # of the first stream, so that all of them run


def options(max_tokens, **more):
    return Options(max_tokens=max_tokens, ignore_eos=True, token_ids=True, timeout=WITHIN_S, **more)


# The checkpoint's tokens are bytes and its weights random, so a text drawn has half characters in
# it all over, and the first byte of a stop string is as likely to come as any other.
STREAMS = {
    "greedy": ("first", options(400, temperature=0.0)),
    "two candidates with scores": ("second", options(300, seed=2, n=2, logprobs=3)),
    "stops half matched": ("third", options(300, seed=3, stop=["e\n\0\x01", "aaaaaa"])),
    "soon over": ("fourth", options(60, seed=4, stop="q")),
}
UNARY = {
    "unary": ("fifth", options(200, seed=5, n=2)),
    "sent after the kill": ("sixth " * 100, options(20, seed=6)),
}


@pytest.fixture(scope="module")
def deployment(tiny):
    with local.deployed(tiny, "--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="module")
def client(deployment):
    with Client(deployment.address) as made:
        yield made


def stream(client, name, passed):
    """A stream's answer; `passed` gets an item for each message."""
    joiner = Joiner()
    for delta in client.stream(*STREAMS[name]):
        joiner.add(delta)
        passed.put(None)
    return joiner.answer()


def ask(client, name):
    return of_completion(client.generate(*UNARY[name]))


@pytest.fixture(scope="module")
def undisturbed(client):
    """The answers of all requests, each of which runs alone."""
    streams = {name: stream(client, name, queue.SimpleQueue()) for name in STREAMS}
    return {**streams, **{name: ask(client, name) for name in UNARY}}


@pytest.mark.parametrize("service", ["model", "detokenizer", "tokenizer"])
def test_requests_outlive_a_service_that_is_killed(deployment, client, undisturbed, service):
    pid = deployment.services()[service].pid
    passed = {name: queue.SimpleQueue() for name in STREAMS}
    with ThreadPoolExecutor(len(STREAMS) + len(UNARY)) as pool:
        calls = {name: pool.submit(stream, client, name, passed[name]) for name in STREAMS}
        calls["unary"] = pool.submit(ask, client, "unary")
        for _ in range(MESSAGES_BEFORE):
            passed["greedy"].get(timeout=WITHIN_S)
        os.kill(pid, signal.SIGKILL)
        calls["sent after the kill"] = pool.submit(ask, client, "sent after the kill")
        answers = {name: call.result() for name, call in calls.items()}

    found = {name: differences(undisturbed[name], answers[name]) for name in undisturbed}
    assert not any(found.values()), found
    assert deployment.services()[service].pid != pid
    deployment.settled_load()
