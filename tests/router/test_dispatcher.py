from __future__ import annotations

import asyncio

import grpc
from google.rpc import error_details_pb2
from router_deployments import (
    cancelled,
    deployed,
    details_of,
    failure,
    fill,
    generate_request,
    held_back,
    load_until,
)
from router_fakes import (
    KV_SLOTS,
    LENGTH,
)

from protos import generation_pb2


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
        await failure(running)
        answer = await waiting

    assert answer.usage.completion_tokens == 60
