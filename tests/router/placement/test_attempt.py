"""An attempt has one end, and a replica notifies its owner once for an event."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock, call

import pytest
from prometheus_client import CollectorRegistry

from chassis.errors import Unavailable
from protos import generation_pb2
from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.api.requests import generation_request
from router.links import events
from router.links.peer_errors import ReplicaLost
from router.metrics import RecoveryMetrics
from router.placement.attempt import Attempt, Links
from router.placement.detokenizer_timeout import DetokenizerAway
from router.placement.replica import Change, Channels, Replica
from router.requests.prompt_arena import Prompt, PromptArena
from router.requests.request import RouterRequest
from router.requests.results import Delta, Finish
from router.requests.validation import Limits, resolve
from router.settings import RecoveryTimeouts, ReplicaAddress

LIMITS = Limits(model="m", context_length=100, vocab_size=50, kv_slots=100)


def request(number: int = 1, candidates: int = 1) -> RouterRequest:
    sent = generation_pb2.GenerateRequest(text="x")
    sent.sampling.n = candidates
    plan = resolve(generation_request(sent), 3, LIMITS)
    return RouterRequest(number, "id", plan, Prompt(3, None, bytes(12)), 4)


def placed(ledger: Ledger, request: RouterRequest) -> Ticket:
    ticket = Ticket(0, request.number)
    ledger.enter(ticket, request.demand())
    return ticket


class Begun:
    """An attempt with links that only record."""

    def __init__(self, *, candidates: int = 1, submitted: bool = True) -> None:
        self.model, self.detokenizer = Mock(), Mock()
        self.ledger = Ledger(100, 4)
        self.request = request(candidates=candidates)
        ticket = placed(self.ledger, self.request)
        self.table: dict[int, Attempt] = {}
        links = Links(self.model, self.detokenizer)
        self.attempt = Attempt(self.request, self.ledger, ticket, links, self.table)
        self.attempt.register()
        if submitted:
            self.attempt.submit()
        self.model.reset_mock()
        self.detokenizer.reset_mock()

    def end(self) -> tuple[list[Any], list[Any]]:
        return self.model.mock_calls, self.detokenizer.mock_calls


def delta(position: int = 0, handle: int = 1, candidate: int = 0, **more: Any) -> Delta:
    return Delta(handle, 1, candidate, position, [7], "a", **more)


async def test_an_attempt_that_is_given_up_is_cancelled_released_and_forgotten_once():
    begun = Begun()
    assert begun.attempt.finish()
    assert not begun.attempt.finish(lost=True)
    assert begun.end() == ([call.cancel(1), call.release(1)], [call.forget(1)])
    assert (len(begun.ledger), begun.table) == (0, {})
    assert await begun.attempt.done is False


async def test_a_finished_request_is_not_cancelled():
    begun = Begun()
    assert begun.attempt.receive(delta(finish=Finish.LENGTH), 0)
    assert begun.end() == ([call.release(1)], [call.forget(1)])
    assert begun.attempt.ended


async def test_the_model_hears_nothing_of_a_request_that_it_was_not_given():
    begun = Begun(submitted=False)
    begun.attempt.finish(lost=True)
    assert begun.end() == ([], [call.forget(1)])
    assert await begun.attempt.done is True
    assert begun.attempt.registered.done()


async def test_a_waiter_that_was_cancelled_does_not_keep_the_attempt_from_its_end():
    begun = Begun()
    begun.attempt.done.cancel()
    assert begun.attempt.finish()
    assert len(begun.ledger) == 0


async def test_a_stop_string_cancels_its_candidate_only():
    begun = Begun(candidates=2)
    assert begun.attempt.receive(delta(finish=Finish.STOP, matched_stop="END"), 0)
    assert begun.end() == ([call.cancel(1, 0)], [])
    assert not begun.attempt.ended


class Serving:
    """A replica whose links are up and only record, and the notifications to its owner."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.replica = Replica(
            ReplicaAddress("m", "d"),
            Channels(Mock(), Mock()),
            PromptArena(0),
            self.changes.append,
            RecoveryMetrics(CollectorRegistry()),
            RecoveryTimeouts(60.0, 60.0),
        )
        self.ledger = Ledger(100, 4)
        model, detokenizer = self.replica.model, self.replica.detokenizer
        model.ledger, detokenizer.up = self.ledger, True
        detokenizer.upstream.linked = True

    async def run(self, number: int = 1) -> tuple[RouterRequest, asyncio.Task[None]]:
        """Begin a request, up to its submit."""
        begun = request(number)
        ticket = placed(self.ledger, begun)
        task = asyncio.create_task(self.replica.run(begun, self.ledger, ticket))
        await asyncio.sleep(0)
        self.replica.apply(events.Registered(begun.handle, begun.attempt))
        await asyncio.sleep(0)
        self.changes.clear()
        return begun, task


async def test_the_owner_is_notified_once_however_many_requests_end_with_a_step():
    serving = Serving()
    begun = [await serving.run(number) for number in (1, 2, 3)]
    serving.changes.clear()
    ends = [delta(handle=one.handle, finish=Finish.LENGTH) for one, _ in begun]
    serving.replica.apply(events.Text(ends))
    assert serving.changes == [Change.ROOM]
    await asyncio.gather(*(task for _, task in begun))
    assert serving.changes == [Change.ROOM]
    assert (len(serving.ledger), serving.replica.running) == (0, 0)


async def test_a_lost_model_loses_its_requests_with_one_notification():
    serving = Serving()
    begun = [await serving.run(number) for number in (1, 2)]
    serving.changes.clear()
    serving.replica.apply(events.ModelLost(Mock(orderly=True), was_ready=True))
    assert serving.changes == [Change.ROOM]
    for _, task in begun:
        with pytest.raises(ReplicaLost):
            await task
    assert len(serving.ledger) == 0


async def test_requests_that_are_moved_leave_without_a_notification():
    serving = Serving()
    _, task = await serving.run()
    serving.replica.move()
    with pytest.raises(ReplicaLost):
        await task
    assert serving.changes == []
    assert len(serving.ledger) == 0


async def test_a_detokenizer_that_stays_away_fails_the_requests():
    serving = Serving()
    begun, task = await serving.run()
    serving.replica.apply(DetokenizerAway(gave_up=True))
    with pytest.raises(Unavailable, match="detokenizer is away"):
        await begun.buffer.take()
    task.cancel()
    await asyncio.wait([task])
    assert len(serving.ledger) == 0


async def test_an_event_of_another_attempt_is_dropped():
    serving = Serving()
    begun, task = await serving.run()
    error = Unavailable("refused")
    serving.replica.apply(events.SubmitRefused(begun.handle, begun.attempt + 1, error))
    serving.replica.apply(events.SubmitRefused(begun.handle + 1, begun.attempt, error))
    serving.replica.apply(events.Text([delta(handle=begun.handle + 1)]))
    assert begun.completion_tokens == 0
    serving.replica.apply(events.Text([delta(handle=begun.handle, finish=Finish.LENGTH)]))
    assert [part.text for part in await begun.buffer.take()] == ["a"]
    await task
