"""`triptych.internal.v1.DetokenizerService` over real sockets; model and router are fake."""

from __future__ import annotations

from array import array
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fakes.detokenizer import (
    HANDLE,
    TEXT,
    TOKENIZER,
    FakeModel,
    FakeRouter,
    bell,
    detokenizer,
    frame_of,
    ids_in,
    ids_of,
    pipeline,
    ring,
    served,
    text_of,
)
from support.tiny_tokenizers import write_checkpoint

from protos import (
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    generation_pb2,
    memory_pb2,
    model_pb2,
    service_pb2,
    service_pb2_grpc,
)
from protos.announcement import Announcement
from protos.token_frame import LENGTH

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", TOKENIZER)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "model.sock"


async def health(channel: aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest())).status


async def described_link(channel: aio.Channel) -> service_pb2.Link:
    stub = service_pb2_grpc.IntrospectionServiceStub(channel)
    (link,) = (await stub.Describe(service_pb2.DescribeRequest())).links
    return link


@pytest.mark.parametrize("way", ["bell", "shared", "inline"])
async def test_tokens_become_text_by_bell_in_shared_memory_and_inline(
    checkpoint: Path, socket: Path, way: str
) -> None:
    ids = ids_of(TEXT)
    shared = way != "inline"
    with ring() as memory, bell() as rung:
        place, beside = memory if shared else None, rung if way == "bell" else None
        async with pipeline(checkpoint, socket, place, beside) as (model, router, channel):
            assert await router.upstream() == (True, shared)
            assert model.hears == (way == "bell")
            await router.register()
            for position, id_ in enumerate(ids):
                last = position == len(ids) - 1
                await model.send(frame_of([id_], position, flags=LENGTH if last else 0))
                await model.acknowledged(position + 1)
                if shared:  # what is acknowledged may be overwritten
                    memory.acknowledge(position + 1)
                    memory.file.view[64:] = bytes(len(memory.file.view) - 64)
            deltas = await router.to_the_end()
            link = await described_link(channel)
    assert (text_of(deltas), ids_in(deltas)) == (TEXT, ids)
    assert deltas[-1].finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert (link.service, link.ready) == ("model", True)
    assert link.transport == (
        service_pb2.TRANSPORT_SHARED_MEMORY if shared else service_pb2.TRANSPORT_INLINE
    )


async def test_an_announcement_of_no_frame_ends_the_link_and_it_is_made_again(
    checkpoint: Path, socket: Path
) -> None:
    ids = ids_of(TEXT)
    with ring() as memory, bell() as rung:
        async with pipeline(checkpoint, socket, memory, rung) as (model, router, _):
            await router.register()
            model.announce(Announcement(1, 1 << 40, 48, acknowledge=True))
            await model.left.wait()
            await model.joined.wait()
            assert (await model.replay()).position == 0
            await model.send(frame_of(ids, flags=LENGTH))
            deltas = await router.to_the_end()
    assert text_of(deltas) == TEXT


async def test_only_a_frame_that_asks_is_acknowledged(checkpoint: Path, socket: Path) -> None:
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register()
        for position, id_ in enumerate(ids_of(TEXT)):
            await model.send(frame_of([id_], position), acknowledge=position in (2, 5))
        await model.acknowledged(3)
        await model.acknowledged(6)
        await router.register(handle=HANDLE + 1)
    assert model.heard.empty()


async def test_a_stop_string_ends_a_candidate_and_what_comes_after_is_dropped(
    checkpoint: Path, socket: Path
) -> None:
    stop = generation_pb2.StopConditions(strings=["dog, 世"])
    output = generation_pb2.OutputOptions(logprobs=0)
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register(stop=stop, output=output)
        await model.send(frame_of(ids_of(TEXT)))
        deltas = await router.to_the_end()
        await model.send(frame_of(ids_of("more"), len(ids_of(TEXT)), flags=LENGTH))
        await model.send(frame_of(ids_of("other"), handle=5))
        await model.acknowledged(3)
        await router.register(handle=HANDLE + 1)
    assert text_of(deltas) == "the quick "
    assert deltas[-1].matched_stop == "dog, 世"
    spelled = b"".join(score.token for delta in deltas for score in delta.logprobs)
    assert spelled == TOKENIZER.decode(ids_in(deltas)).encode()
    assert "dog, 世" in spelled.decode()
    assert "dog, 世" not in TOKENIZER.decode(ids_in(deltas)[:-1])


async def test_a_router_that_does_not_read_holds_up_nobody(checkpoint: Path, socket: Path) -> None:
    steps, candidates = 300, 64
    async with pipeline(checkpoint, socket) as (model, router, channel):
        await router.register(candidates=candidates)
        other = FakeRouter(channel)
        await other.listen()
        await other.register(handle=7)
        tokens = ids_of("the dog and the fox " * steps)[:steps]
        for position, id_ in enumerate(tokens):
            flags = LENGTH if position == steps - 1 else 0
            frame = frame_of([id_] * candidates, flags=flags)
            frame.rows["flags"] = flags
            frame.rows["position"] = position
            frame.rows["candidate"] = range(candidates)
            await model.send(frame)
        await model.send(frame_of(ids_of(TEXT), handle=7, flags=LENGTH))
        await model.acknowledged(steps + 1)
        assert text_of(await other.to_the_end()) == TEXT
        other.call.cancel()
        received: list[list[int]] = [[] for _ in range(candidates)]
        while min(map(len, received)) < steps:
            for delta in (await router.until("text")).deltas:
                assert delta.position == len(received[delta.candidate])
                received[delta.candidate] += delta.token_ids
    assert received == [tokens] * candidates


async def test_a_gap_is_replayed(checkpoint: Path, socket: Path) -> None:
    ids = ids_of(TEXT)
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register()
        await model.send(frame_of(ids[:2]))
        missing = model_pb2.Missing(handle=HANDLE, attempt=1)
        gap = model_pb2.Gap(requests=[missing])
        await model.say(model_pb2.FramesResponse(gap=gap))
        replay = await model.replay()
        await model.send(frame_of(ids, flags=LENGTH))
        deltas = await router.to_the_end()
    assert (replay.handle, replay.attempt, replay.position) == (HANDLE, 1, 2)
    assert (text_of(deltas), ids_in(deltas)) == (TEXT, ids)


async def test_a_model_that_comes_back_is_asked_for_what_was_lost(
    checkpoint: Path, socket: Path
) -> None:
    ids = ids_of(TEXT)
    first, second = FakeModel(None), FakeModel(None)
    async with detokenizer(checkpoint, socket) as channel:
        router = FakeRouter(channel)
        assert await router.listen() == len(TOKENIZER.get_vocab())
        assert await router.upstream() == (False, False)
        assert await health(channel) == NOT_SERVING
        async with served(first, socket):
            assert await router.upstream() == (True, False)
            assert await health(channel) == SERVING
            await router.register()
            await first.send(frame_of(ids[:3]))
            await first.acknowledged(1)
        assert await router.upstream() == (False, False)
        assert await health(channel) == NOT_SERVING
        assert not (await described_link(channel)).ready
        async with served(second, socket):
            replay = await second.replay()
            await second.send(frame_of(ids[replay.position :], replay.position, flags=LENGTH))
            deltas = await router.to_the_end()
        router.call.cancel()
    assert replay.position == 3
    assert text_of(deltas) == TEXT[len(TOKENIZER.decode(ids[:3])) :]


async def test_a_request_that_returns_goes_on_after_what_was_delivered(
    checkpoint: Path, socket: Path
) -> None:
    ids = ids_of(TEXT)
    said = TOKENIZER.decode(ids[:3])
    delivered = detokenizer_pb2.Delivered(
        ids=array("i", ids[:4]).tobytes(), text_length=len(said) - 1
    )
    async with pipeline(checkpoint, socket) as (model, router, channel):
        await router.register(attempt=2, delivered=[delivered])
        replay = await model.replay()
        await model.send(frame_of(ids, attempt=1, flags=LENGTH))  # of a replica that was asleep
        await model.send(frame_of(ids[4:], 4, attempt=2, flags=LENGTH))
        deltas = await router.to_the_end()
        scraped = await service_pb2_grpc.IntrospectionServiceStub(channel).Scrape(
            service_pb2.ScrapeRequest()
        )
    lines = scraped.text.decode().splitlines()
    for count, value in (("renewed_registrations", 1), ("replays", 1), ("fenced_rows", len(ids))):
        assert f"triptych_detokenizer_{count}_total {float(value)}" in lines
    assert (replay.attempt, replay.position) == (2, 4)
    assert (said[:-1] + text_of(deltas), ids_in(deltas)) == (TEXT, ids[4:])
    assert {delta.attempt for delta in deltas} == {2}


async def test_what_a_router_registered_goes_when_its_stream_ends(
    checkpoint: Path, socket: Path
) -> None:
    async with pipeline(checkpoint, socket) as (model, router, channel):
        await router.register()
        other = FakeRouter(channel)
        await other.listen()
        await other.register(handle=7)
        await router.call.done_writing()
        assert await router.call.code() == grpc.StatusCode.OK
        await model.send(frame_of(ids_of(TEXT)))
        await model.send(frame_of(ids_of(TEXT), handle=7, flags=LENGTH))
        assert text_of(await other.to_the_end()) == TEXT
        other.call.cancel()
        scraped = await service_pb2_grpc.IntrospectionServiceStub(channel).Scrape(
            service_pb2.ScrapeRequest()
        )
    rows = len(ids_of(TEXT))
    lines = scraped.text.decode().splitlines()
    assert f"triptych_detokenizer_fenced_rows_total {float(rows)}" in lines
    assert f"triptych_detokenizer_rows_total {float(2 * rows)}" in lines
    assert "triptych_detokenizer_frames_total 2.0" in lines


async def test_a_request_that_was_forgotten_is_told_no_more(checkpoint: Path, socket: Path) -> None:
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register()
        forget = detokenizer_pb2.Forget(handle=HANDLE)
        await router.call.write(detokenizer_pb2.WatchRequest(forget=forget))
        await router.register(handle=7)
        await model.send(frame_of(ids_of(TEXT)))
        await model.send(frame_of(ids_of("dog"), handle=7, flags=LENGTH))
        assert {delta.handle for delta in await router.to_the_end()} == {7}


@pytest.mark.parametrize(
    "broken",
    [
        model_pb2.Frame(sequence=1, inline=b"\x01"),
        model_pb2.Frame(sequence=1, span=memory_pb2.Span(name="unknown", offset=64, length=8)),
    ],
)
async def test_a_frame_that_cannot_be_read_makes_the_link_anew(
    checkpoint: Path, socket: Path, broken: model_pb2.Frame
) -> None:
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register()
        await model.say(model_pb2.FramesResponse(frame=broken))
        await model.left.wait()
        await model.joined.wait()
        assert (await model.replay()).position == 0
        await model.send(frame_of(ids_of(TEXT), flags=LENGTH))
        assert text_of(await router.to_the_end()) == TEXT


async def test_a_model_that_refuses_is_asked_again(checkpoint: Path, socket: Path) -> None:
    model = FakeModel(None)
    model.refusals = 2
    async with served(model, socket), detokenizer(checkpoint, socket):
        await model.joined.wait()
        assert model.refusals == 0


async def test_a_stream_begins_with_listen(checkpoint: Path, socket: Path) -> None:
    async with pipeline(checkpoint, socket) as (_, router, channel):
        rude = FakeRouter(channel)
        forget = detokenizer_pb2.Forget(handle=HANDLE)
        await rude.call.write(detokenizer_pb2.WatchRequest(forget=forget))
        assert await rude.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        await router.register()


async def test_ids_are_decoded_at_once(checkpoint: Path, socket: Path) -> None:
    (checkpoint / "config.json").write_text('{"vocab_size": 1000}')
    eos = TOKENIZER.token_to_id("</s>")
    async with detokenizer(checkpoint, socket) as channel:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        for skip, text in ((True, TEXT), (False, f"{TEXT}</s>")):
            request = detokenizer_pb2.DecodeRequest(
                token_ids=[*ids_of(TEXT), eos, 999], skip_special_tokens=skip
            )
            assert (await stub.Decode(request)).text == text
        assert (await stub.Decode(detokenizer_pb2.DecodeRequest())).text == ""
        with pytest.raises(aio.AioRpcError, match="token_ids: 1000 is not below 1000") as error:
            await stub.Decode(detokenizer_pb2.DecodeRequest(token_ids=[1000]))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_long_text_is_decoded_in_slices_and_is_the_same(
    checkpoint: Path, socket: Path
) -> None:
    eos = TOKENIZER.token_to_id("</s>")
    ids = [*ids_of(TEXT), eos] * 500
    async with detokenizer(checkpoint, socket) as channel:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        for skip, text in ((True, TEXT * 500), (False, f"{TEXT}</s>" * 500)):
            request = detokenizer_pb2.DecodeRequest(token_ids=ids, skip_special_tokens=skip)
            assert (await stub.Decode(request)).text == text


async def test_a_text_that_fits_no_message_is_refused_before_it_is_made(
    checkpoint: Path, socket: Path
) -> None:
    word = max(range(TOKENIZER.get_vocab_size()), key=lambda each: len(TOKENIZER.decode([each])))
    ids = [word] * ((1 << 20) // len(TOKENIZER.decode([word])) + 1)
    async with detokenizer(checkpoint, socket, max_message_mib=1) as channel:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        with pytest.raises(aio.AioRpcError, match="bytes, more than the") as error:
            await stub.Decode(detokenizer_pb2.DecodeRequest(token_ids=ids))
        await stub.Decode(detokenizer_pb2.DecodeRequest(token_ids=ids[: len(ids) // 2]))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
