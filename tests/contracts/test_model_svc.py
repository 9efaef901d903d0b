"""`triptych.internal.v1.ModelService` over a real socket, with a real tiny model."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc import aio
from support import checkpoints
from support.fakes.model_peers import Detokenizer, Router, metrics, model, model_channel

from chassis.memory.arena import Arena
from chassis.memory.doorbell import Listener
from chassis.memory.shared_file import SharedFile
from protos import memory_pb2, model_pb2, model_pb2_grpc
from protos.announcement import ANNOUNCEMENT_BYTES, read_announcements
from protos.token_frame import FINISHED, read_frame


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.mark.parametrize(("shares", "place"), [(True, "span"), (False, "inline")])
async def test_a_submitted_prompt_comes_back_as_frames(checkpoint, shares, place):
    async with model(checkpoint) as stub:
        detokenizer = await Detokenizer(stub, shares).join()
        router = await Router(stub).join()

        ids = await detokenizer.until_finished(await router.submit(max_tokens=5))

    assert len(ids) == 5
    assert detokenizer.places == {place}


async def test_who_listens_to_the_bell_is_told_of_frames_there(checkpoint):
    async with model(checkpoint) as stub:
        detokenizer = Detokenizer(stub)
        ring = await detokenizer.offered()
        listener = Listener(ring.bell, ANNOUNCEMENT_BYTES)
        await detokenizer.prove(ring, hears=True)
        router = await Router(stub).join()
        handle = await router.submit(max_tokens=5)

        rows = []
        while not any(row[6] & FINISHED for row in rows):
            for told in await heard(listener):
                span = memory_pb2.Span(name=ring.name, offset=told.offset, length=told.length)
                rows += read_frame(bytes(detokenizer.files.view(span))).rows.tolist()
        listener.close()
        detokenizer.call.cancel()

    assert [(row[0], row[2]) for row in rows] == [(handle, position) for position in range(5)]


async def heard(listener):
    """The next announcements, once there are some."""
    there = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(listener, there.set)
    await there.wait()
    loop.remove_reader(listener)
    return read_announcements(listener.hear())


async def test_a_prompt_in_the_arena_is_the_prompt_inline(checkpoint, tmp_path):
    arena = Arena(SharedFile.create("arena", 1 << 16))
    try:
        async with model(checkpoint) as stub:
            detokenizer = await Detokenizer(stub).join()
            router = await Router(stub).join(arena)
            assert router.welcome.proof.nonce == arena.file.nonce
            inline = await detokenizer.until_finished(await router.submit(1, ids=[7, 8, 9]))
            slab = arena.take(12)
            arena.file.view[slab.offset : slab.offset + 12] = np.array([7, 8, 9], "<i4").tobytes()

            shared = await detokenizer.until_finished(await router.submit(2, slab=slab))
    finally:
        arena.file.close()

    assert shared == inline


async def test_welcome_says_what_the_model_is(checkpoint):
    async with model(checkpoint, name="parrot") as stub:
        router = await Router(stub).join()

    assert router.welcome.model.name == "parrot"
    assert router.welcome.kv_slots == 512
    assert router.welcome.max_sequences <= router.welcome.max_batch_tokens


async def test_each_life_of_a_model_welcomes_with_a_number_of_its_own(checkpoint):
    numbers = []
    for _ in range(2):
        async with model(checkpoint) as stub:
            numbers += [
                (await Router(stub, router).join()).welcome.incarnation for router in (1, 2)
            ]

    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    assert all(numbers)


async def test_a_request_that_returns_goes_on_after_what_it_brings(checkpoint):
    async with model_channel(checkpoint) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        detokenizer = await Detokenizer(stub).join()
        router = await Router(stub).join()
        whole = await detokenizer.until_finished(await router.submit(1, max_tokens=6))
        had = model_pb2.Progress(ids=np.array(whole[:4], "<i4").tobytes())
        handle = await router.submit(2, max_tokens=6, attempt=2, progress=[had])
        rest = await detokenizer.until_finished(handle)
        replay = model_pb2.Replay(handle=handle, attempt=2, candidate=0, position=5)
        await detokenizer.call.write(model_pb2.FramesRequest(replay=replay))
        await detokenizer.take()
        samples = await metrics(channel)

    assert rest == whole[4:]
    assert [row[1:3] for row in detokenizer.rows[-3:]] == [(2, 4), (2, 5), (2, 5)]
    for count in ("resumed_requests", "replays", "resent_rows"):
        assert f"triptych_model_{count}_total 1.0" in samples


async def test_a_router_number_in_use_is_refused(checkpoint):
    async with model(checkpoint) as stub:
        first = await Router(stub).join()
        second = Router(stub)
        with pytest.raises(aio.AioRpcError) as error:
            await second.join()
            await second.call.read()

        assert not first.call.done()
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_the_slots_of_a_router_that_leaves_are_free(checkpoint):
    async with model(checkpoint) as stub:
        detokenizer = await Detokenizer(stub).join()
        leaver = await Router(stub, router=1).join()
        stayer = await Router(stub, router=2).join()
        await leaver.submit(ids=range(3, 90), max_tokens=400)
        await stayer.loads_until(lambda load: load.kv_slots_used > 0)
        leaver.call.cancel()

        await stayer.loads_until(lambda load: load.kv_slots_used == 0 and not load.running)
        assert not detokenizer.call.done()


async def test_cancel_and_release_free_the_slots(checkpoint):
    async with model(checkpoint) as stub:
        router = await Router(stub).join()
        for counter, message in ((1, "cancel"), (2, "release")):
            handle = await router.submit(counter, max_tokens=400)
            await router.loads_until(lambda load: load.running)
            request = model_pb2.RunRequest()
            getattr(request, message).handle = handle
            await router.call.write(request)

            await router.loads_until(lambda load: not load.kv_slots_used and not load.running)


async def test_a_submit_that_cannot_run_is_refused_and_the_next_one_runs(checkpoint):
    async with model(checkpoint) as stub:
        detokenizer = await Detokenizer(stub).join()
        router = await Router(stub).join()
        await router.submit(1, ids=[1, 10_000_000])
        await router.submit(2, max_tokens=10_000)
        await router.submit(3, ids=[])
        refused = []
        while len(refused) < 3:
            response = await router.call.read()
            if response.WhichOneof("message") == "refusal":
                refused.append(response.refusal)

        assert len(await detokenizer.until_finished(await router.submit(4))) == 5
    assert [refusal.handle & 0xFFFFFFFF for refusal in refused] == [1, 2, 3]
    assert {r.code for r in refused} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}


@pytest.mark.parametrize("shares", [True, False])
async def test_frames_left_out_of_a_full_ring_are_sent_again_when_asked_for(checkpoint, shares):
    async with model(checkpoint, ring_kib=4, kv_tokens=2048) as stub:
        detokenizer = await Detokenizer(stub, shares).join()
        router = await Router(stub).join()
        handle = await router.submit(max_tokens=300)
        await router.loads_until(lambda load: not load.running and load.submits_seen)
        while (response := await detokenizer.take()).WhichOneof("message") != "gap":
            pass
        assert response.gap.requests[0].handle == handle

        while len(detokenizer.ids_by_position(handle)) < 300:
            wanted = detokenizer.first_missing(handle)
            replay = model_pb2.Replay(handle=handle, attempt=1, candidate=0, position=wanted)
            await detokenizer.call.write(model_pb2.FramesRequest(replay=replay))
            while detokenizer.first_missing(handle) == wanted:
                await detokenizer.take()

        calm = await Detokenizer(stub, shares).join()
        again = await router.submit(2, max_tokens=20)
        ids = await calm.until_finished(again)
    assert list(detokenizer.ids_by_position(handle).values())[:20] == ids


async def test_rows_that_come_while_a_detokenizer_joins_are_told_as_a_gap(checkpoint):
    async with model(checkpoint) as stub:
        router = await Router(stub).join()
        detokenizer = Detokenizer(stub)
        ring = await detokenizer.offered()
        handle = await router.submit(max_tokens=3)
        await router.loads_until(lambda load: load.submits_seen and not load.running)
        await detokenizer.prove(ring)

        gap = (await detokenizer.take()).gap
    assert [(missing.handle, missing.attempt) for missing in gap.requests] == [(handle, 1)]


async def test_requests_run_without_a_detokenizer_and_are_replayed_to_one_that_comes(checkpoint):
    async with model(checkpoint) as stub:
        router = await Router(stub).join()
        handle = await router.submit(max_tokens=5)
        await router.loads_until(lambda load: load.submits_seen and not load.running)
        detokenizer = await Detokenizer(stub).join()
        replay = model_pb2.Replay(handle=handle, attempt=1, candidate=0, position=2)
        await detokenizer.call.write(model_pb2.FramesRequest(replay=replay))

        await detokenizer.until_finished(handle)

    assert [row[2] for row in detokenizer.rows] == [2, 3, 4]


async def test_a_stream_that_begins_wrongly_is_refused(checkpoint):
    async with model(checkpoint) as stub:
        run = stub.Run()
        await run.write(model_pb2.RunRequest(release=model_pb2.Release(handle=1)))
        with pytest.raises(aio.AioRpcError) as error:
            await run.read()

    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_calls_wait_while_the_model_loads(checkpoint):
    async with model(checkpoint) as stub:
        router = await asyncio.wait_for(Router(stub).join(), 60)

    assert router.welcome.kv_slots
