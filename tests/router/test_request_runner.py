from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from support.deployments.routers import (
    cancelled,
    collect,
    deployed,
    failure,
    generate_request,
    held_back,
    load_until,
    severable,
)
from support.fakes.router import (
    LENGTH,
    PATIENCE_S,
    STOP,
    FakeReplica,
)

from chassis.links.channels import open_channel
from protos import generation_pb2, generation_pb2_grpc, model_pb2


async def test_a_refusal_by_the_model_is_passed_on(tmp_path):
    replica = FakeReplica()
    replica.refusal = model_pb2.Refusal(code=3, field="stop.max_tokens", message="does not fit")
    async with deployed(tmp_path, replicas=[replica]) as deployment:
        error = await failure(deployment.stub.Generate(generate_request()))
        await replica.forgets.until(1)
        replica.refusal = None
        good = await deployment.stub.Generate(generate_request())

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "stop.max_tokens: does not fit"
    assert good.usage.completion_tokens == 3


async def test_what_ends_by_itself_is_released_and_forgotten(tmp_path):
    async with deployed(tmp_path) as deployment:
        replica = deployment.replica
        await deployment.stub.Generate(generate_request())
        await replica.releases.until(1)
        await replica.forgets.until(1)
        handle = replica.submits[0].handle

    assert replica.releases.items == replica.forgets.items == [handle]
    assert not replica.cancels.items


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_what_its_caller_ends_is_cancelled_released_and_forgotten(tmp_path, how):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(
            generate_request(max_tokens=60), timeout=PATIENCE_S if how == "cancel" else 0.5
        )
        await replica.submits.until(1)
        replica.step(replica.submits[0])
        assert (await call.read()).deltas[0].text == "a "
        if how == "cancel":
            cancelled(call)
        await replica.releases.until(1)
        await replica.forgets.until(1)
        replica.automatic = True
        await deployment.stub.Generate(generate_request())
        first, second = replica.submits.items

    assert [cancel.handle for cancel in replica.cancels.items] == [first.handle]
    assert not replica.cancels[0].HasField("candidate")
    assert first.slab.offset == second.slab.offset, "the slab has not come back"
    if how == "deadline":
        assert (await call.code()) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_client_that_vanishes_frees_what_it_held(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        async with (
            severable(tmp_path / "wire", tmp_path / "router.sock") as sever,
            open_channel(f"unix:{tmp_path}/wire") as channel,
        ):
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            call = stub.GenerateStream(generate_request(max_tokens=60))
            await replica.submits.until(1)
            sever()
            await replica.releases.until(1)
            await replica.forgets.until(1)
            await failure(call)

    assert replica.cancels[0].handle == replica.submits[0].handle


async def test_a_candidate_that_met_a_stop_string_is_cancelled_at_once(tmp_path):
    asked = generate_request(max_tokens=9, sampling=generation_pb2.SamplingParams(n=2))
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(asked)
        await replica.submits.until(1)
        submit = replica.submits[0]
        replica.step(submit, [1], finish=STOP, matched_stop="END")
        await replica.cancels.until(1)
        replica.step(submit, [0], finish=STOP, matched_stop="END")
        messages = await collect(call)
        await replica.releases.until(1)

    (cancel,) = replica.cancels.items
    assert (cancel.handle, cancel.candidate) == (submit.handle, 1)
    assert [m.deltas[0].matched_stop for m in messages] == ["END", "END"]


async def test_a_slow_client_gets_merged_messages_and_slows_nobody(tmp_path):
    word = "x" * 20_000
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        slow = deployment.stub.GenerateStream(generate_request(max_tokens=60))
        await replica.submits.until(1)
        submit = replica.submits[0]
        # More than the transport takes for a client that does not read.
        for step in range(1000):
            replica.send_text(
                [
                    {
                        "handle": submit.handle,
                        "attempt": submit.attempt,
                        "position": step,
                        "token_ids": [1],
                        "text": word,
                        "finish_reason": LENGTH if step == 999 else 0,
                    }
                ]
            )
        replica.automatic = True
        quick = await deployment.stub.Generate(generate_request())
        await replica.releases.until(2)
        messages = await collect(slow)

    assert quick.usage.completion_tokens == 3
    assert len(messages) < 1000
    assert "".join(delta.text for m in messages for delta in m.deltas) == word * 1000
    assert messages[-1].usage.completion_tokens == 1000


async def test_whenever_callers_leave_everything_comes_back(tmp_path):
    chance = random.Random(7)
    replica = FakeReplica(kv_slots=1_000_000, context=1_000_000)
    async with deployed(tmp_path, replicas=[replica], arena_mib=1) as deployment:
        await deployment.stub.Generate(generate_request())  # all links are up

        async def call() -> None:
            stream = deployment.stub.GenerateStream(generate_request("x" * chance.randint(1, 99)))
            await asyncio.sleep(chance.random() * 0.1)
            replica.automatic = chance.random() < 0.5
            cancelled(stream)

        for _ in range(10):
            await asyncio.gather(*(call() for _ in range(12)))
        await load_until(deployment, lambda load: not (load.queued or load.running))
        await replica.forgets.until(len(replica.registers))
        await replica.releases.until(len(replica.submits))
        assert len(replica.registers) > 1
        # Only where all slabs are back is there one as large as the arena.
        replica.automatic = True
        await deployment.stub.Generate(generate_request("x" * (2**18 - 64), max_tokens=1))

    registered = {register.handle for register in replica.registers.items}
    assert set(replica.forgets.items) == registered
    assert set(replica.releases.items) == {submit.handle for submit in replica.submits.items}
    assert replica.submits[-1].HasField("slab")
