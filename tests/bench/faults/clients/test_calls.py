"""How long clients waited, and what a call's end makes of its outcome."""

import asyncio
import dataclasses

import grpc
import pytest

from bench.faults.clients.calls import Outcome, carry_out, longest_pause_s, longest_wait_s
from bench.faults.clients.progress import Progress
from bench.faults.clients.workload import Case
from triptych.client import InternalError, Options, Unavailable
from triptych.client.results import CandidateText, Delta, FinishReason, Usage

STREAM = Case("stream", "text", Options())
UNARY = dataclasses.replace(STREAM, streamed=False)
LATE = dataclasses.replace(STREAM, read_late=True)
FIRST = Delta("id", (CandidateText(0, "a"),))
LAST = Delta("id", (CandidateText(0, "b", finish_reason=FinishReason.LENGTH),), Usage(1, 2, 0))


class FakeClient:
    """Answers a stream with `messages`; an exception among them is raised."""

    def __init__(self, *messages):
        self.taken = 0
        self._messages = messages

    async def stream(self, prompt, options):
        for message in self._messages:
            if isinstance(message, Exception):
                raise message
            self.taken += 1
            yield message


async def outcome_of(*messages):
    outcome, injected = Outcome(STREAM, 0.0), asyncio.Event()
    await carry_out(outcome, FakeClient(*messages), injected, Progress())
    return outcome


def test_a_pause_lies_between_two_messages_of_one_stream():
    outcomes = [
        Outcome(STREAM, 0.0, [5.0, 5.5, 7.0]),
        Outcome(STREAM, 0.0, [1.0, 1.25]),
        Outcome(STREAM, 0.0, [9.0]),
    ]

    assert longest_pause_s(outcomes) == pytest.approx(1.5)


def test_a_client_that_reads_late_and_a_unary_call_pause_nobody():
    outcomes = [Outcome(LATE, 0.0, [1.0, 9.0]), Outcome(UNARY, 0.0, [8.0])]

    assert longest_pause_s(outcomes) == 0.0


def test_a_wait_is_for_the_first_message_of_a_stream():
    outcomes = [
        Outcome(STREAM, 1.0, [3.0, 9.0]),
        Outcome(UNARY, 0.0, [8.0]),
        Outcome(STREAM, 0.0),
    ]

    assert longest_wait_s(outcomes) == pytest.approx(2.0)


async def test_a_whole_stream_has_an_answer_and_a_time_for_each_message():
    outcome = await outcome_of(FIRST, LAST)

    assert outcome.answer.candidates[0].text == "ab"
    assert len(outcome.messages_s) == 2
    assert not outcome.failure
    assert outcome.ended_s is not None


async def test_unavailable_after_a_message_is_told():
    gone = Unavailable("gone", status=grpc.StatusCode.UNAVAILABLE)

    outcome = await outcome_of(FIRST, gone)

    assert outcome.unavailable
    assert outcome.answer is None


async def test_unavailable_before_any_message_is_not_told_but_failed():
    gone = Unavailable("gone", status=grpc.StatusCode.UNAVAILABLE)

    outcome = await outcome_of(gone)

    assert not outcome.unavailable
    assert outcome.failure == "UNAVAILABLE gone"


async def test_any_other_error_and_a_cut_stream_have_no_answer_but_a_reason():
    broken = await outcome_of(FIRST, InternalError("bug", status=grpc.StatusCode.INTERNAL))
    cut = await outcome_of(FIRST)

    assert (broken.answer, broken.failure) == (None, "INTERNAL bug")
    assert (cut.answer, cut.failure) == (None, "no usage in the last message")


async def test_a_client_that_reads_late_takes_one_message_before_the_fault():
    outcome, injected, client = Outcome(LATE, 0.0), asyncio.Event(), FakeClient(FIRST, LAST)
    progress = Progress()
    call = asyncio.ensure_future(carry_out(outcome, client, injected, progress))
    await progress.reached(1)
    await asyncio.sleep(0)
    before = client.taken
    injected.set()
    await call

    assert before == 1
    assert client.taken == 2
    assert outcome.answer is not None
