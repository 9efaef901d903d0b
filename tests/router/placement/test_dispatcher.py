from __future__ import annotations

import asyncio
from unittest.mock import Mock

import grpc
import pytest
from google.rpc import error_details_pb2
from support.deployments.routers import (
    cancelled,
    deployed,
    details_of,
    failure,
    fill,
    generate_request,
    held_back,
    load_until,
)
from support.fakes.router import (
    KV_SLOTS,
    LENGTH,
)

from chassis.errors import Unavailable
from protos import generation_pb2
from router.admission.demand import Demand
from router.admission.ledger import Ledger
from router.placement.dispatcher import Dispatcher
from router.placement.replica import Change
from router.requests.results import ModelInfo


async def test_load_tells_what_waits_and_runs(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        running = deployment.stub.GenerateStream(generate_request(max_tokens=60))
        await replica.submits.until(1)
        await fill(deployment)
        waiting = deployment.stub.GenerateStream(generate_request(max_tokens=60))
        load = await load_until(deployment, lambda load: load.queued)
        cancelled(running)
        cancelled(waiting)

    assert (load.queued, load.running) == (1, 1)
    assert (load.kv_slots_used, load.kv_slots_total) == (KV_SLOTS, KV_SLOTS)
    assert load.replicas[0].address == deployment.address("model0")
    assert load.replicas[0].ready


async def test_a_full_queue_says_when_to_try_again(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()], max_queue=1) as deployment:
        running = deployment.stub.GenerateStream(generate_request(max_tokens=60))
        await deployment.replica.submits.until(1)
        await fill(deployment)
        waiting = deployment.stub.GenerateStream(generate_request(max_tokens=60))
        await deployment.tokenizer.answered.until(2)
        error = await failure(deployment.stub.Generate(generate_request()))
        cancelled(running)
        cancelled(waiting)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = details_of(error)
    assert info.reason == "OVERLOADED"
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.seconds > 0


async def test_who_waits_starts_by_priority_once_there_is_room(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        calls = [deployment.stub.Generate(generate_request(max_tokens=60, request_id="first"))]
        await replica.submits.until(1)
        await fill(deployment)
        for name, priority in (("late", 1), ("early", -1)):
            request = generate_request(max_tokens=60, request_id=name, priority=priority)
            calls.append(deployment.stub.Generate(request))
            await deployment.tokenizer.answered.until(len(calls))
        # Answers come in order: once this one is there, those before it have been taken in.
        await deployment.stub.Tokenize(generation_pb2.TokenizeRequest(text="x"))
        replica.automatic = True
        replica.step(replica.submits[0], finish=LENGTH)
        await asyncio.gather(*calls)
        order = [submit.request_id for submit in replica.submits.items]

    assert order == ["first", "early", "late"]


async def test_requests_spread_over_replicas(tmp_path):
    replicas = [held_back(), held_back()]
    async with deployed(tmp_path, replicas=replicas) as deployment:
        calls = [deployment.stub.GenerateStream(generate_request(max_tokens=60))]
        await asyncio.wait(
            [asyncio.create_task(replica.submits.until(1)) for replica in replicas],
            return_when=asyncio.FIRST_COMPLETED,
        )
        await asyncio.gather(*(replica.listens.until(1) for replica in replicas))
        calls.append(deployment.stub.GenerateStream(generate_request(max_tokens=60)))
        await asyncio.gather(*(replica.submits.until(1) for replica in replicas))
        for call in calls:
            cancelled(call)

    assert [len(replica.submits) for replica in replicas] == [1, 1]


async def test_a_deadline_that_passes_in_the_queue_leaves_it(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        running = deployment.stub.Generate(generate_request(max_tokens=60))
        await replica.submits.until(1)
        await fill(deployment)
        error = await failure(
            deployment.stub.Generate(generate_request(max_tokens=60), timeout=0.3)
        )
        await load_until(deployment, lambda load: not load.queued)
        replica.automatic = True
        replica.step(replica.submits[0], finish=LENGTH)
        await running
        await deployment.stub.Generate(generate_request())

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(replica.submits) == 2


async def test_waiting_ends_with_the_recovery_limit(tmp_path):
    async with deployed(tmp_path, fakes=False, recovery_s=0.2) as deployment:
        nobody = await failure(deployment.stub.Generate(generate_request()))
        async with deployment.serve_model(), deployment.serve_detokenizer():
            await deployment.replica.listens.until(1)
            no_tokenizer = await failure(deployment.stub.Generate(generate_request()))

    for error, words in ((nobody, "no replica"), (no_tokenizer, "tokenizer is away")):
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert words in error.details()
        assert isinstance(list(details_of(error))[1], error_details_pb2.RetryInfo)


async def test_what_waits_while_a_replica_is_lost_starts_when_it_is_back(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        running = deployment.stub.Generate(generate_request(max_tokens=60))
        await replica.submits.until(1)
        await fill(deployment)
        waiting = deployment.stub.Generate(generate_request(max_tokens=60))
        await deployment.tokenizer.answered.until(2)
        replica.automatic = True
        replica.drop_streams()
        answers = [await running, await waiting]

    assert [answer.usage.completion_tokens for answer in answers] == [60, 60]


async def test_a_replica_that_comes_up_as_the_recovery_limit_passes_harms_nobody():
    info = ModelInfo(name="m", context_length=64, vocab_size=8)
    ledger = Ledger(64, 4)
    replica = Mock(ready=False, running=0, stranded=False)
    replica.model = Mock(info=info, kv_slots=64, ledger=ledger)
    dispatcher = Dispatcher(max_queue=4, recovery_s=0, ready_changed=lambda: None)
    dispatcher.replicas = (replica,)
    dispatcher.update(Change.MODEL)
    with dispatcher.arrival(0) as ticket:
        waiting = asyncio.create_task(dispatcher.place(ticket, lambda: Demand.fresh(1, 1, 1)))
        await asyncio.sleep(0)  # it waits, and its limit passes in the loop's next turn
        noted = asyncio.get_running_loop().create_future()

        def come_up():
            replica.ready = True
            dispatcher.update()
            noted.set_result(None)

        asyncio.get_running_loop().call_soon(come_up)
        with pytest.raises(Unavailable):
            await waiting

    assert noted.done()
    assert not len(ledger)
    assert dispatcher.queued == 0


async def measured(deployment) -> None:
    """Have the router see how fast the replica is: a token about every 20 ms."""
    replica = deployment.replica
    running = deployment.stub.Generate(generate_request(max_tokens=60))
    await replica.submits.until(1)
    for _ in range(20):
        replica.step(replica.submits[0])
        await asyncio.sleep(0.02)
    replica.step(replica.submits[0], finish=LENGTH)
    await running


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        await measured(deployment)
        running = deployment.stub.Generate(
            generate_request(max_tokens=60, stop=generation_pb2.StopConditions(ignore_eos=True))
        )
        await replica.submits.until(2)
        await fill(deployment, submits=2)
        error = await failure(
            deployment.stub.Generate(
                generate_request(
                    max_tokens=60, stop=generation_pb2.StopConditions(ignore_eos=True)
                ),
                timeout=1.0,
            )
        )
        patient = deployment.stub.Generate(generate_request(max_tokens=2), timeout=60)
        await load_until(deployment, lambda load: load.queued)
        cancelled(running)
        cancelled(patient)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = details_of(error)
    assert info.reason == "DEADLINE_UNMEETABLE"
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.seconds > 0
    assert len(replica.submits) == 2


async def test_what_is_resumed_after_a_crash_is_not_refused(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        await measured(deployment)
        running = deployment.stub.Generate(generate_request(max_tokens=60), timeout=5)
        await replica.submits.until(2)
        replica.step(replica.submits[1])
        replica.automatic = True
        replica.crash()
        answer = await running

    assert answer.usage.completion_tokens == 60
