"""`triptych.internal.v1.DetokenizerService` over real sockets; model and router are fake."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_tokenizers import byte_level, write_checkpoint

from chassis.channels import open_channel
from chassis.ring import Ring
from chassis.server import serving
from chassis.shared_file import SharedFile
from detokenizer_svc.service import make_mount
from detokenizer_svc.settings import DetokenizerSettings
from protos import (
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    generation_pb2,
    memory_pb2,
    model_pb2,
    model_pb2_grpc,
    service_pb2,
    service_pb2_grpc,
)
from protos.token_frame import ALTERNATIVE, LENGTH, ROW, TokenFrame, frame_bytes, write_frame

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = byte_level()
TEXT = "the quick dog, 世界 🌍"
HANDLE = 0xFEDCBA9800000001
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def frame_of(ids: Sequence[int], start: int = 0, **fields: int) -> TokenFrame:
    """Rows of one candidate at consecutive positions; the last of them bears the flags."""
    defaults = {"handle": HANDLE, "attempt": 1, "candidate": 0}
    rows = np.zeros(len(ids), ROW)
    for name, value in {**defaults, **fields}.items():
        rows[name] = value
    rows["flags"][:-1] = 0
    rows["token"] = ids
    rows["position"] = np.arange(start, start + len(ids))
    return TokenFrame(rows, np.zeros(0, ALTERNATIVE))


class FakeModel(model_pb2_grpc.ModelServiceServicer):
    """Sends the frames that a test gives it, and keeps what it hears."""

    def __init__(self, ring: Ring | None) -> None:
        self.ring = ring
        self.refusals = 0
        self.joined = asyncio.Event()
        self.left = asyncio.Event()
        self.heard: asyncio.Queue[model_pb2.FramesRequest] = asyncio.Queue()
        self.sequence = 0
        self.shared = False
        self._context: Any

    async def Frames(self, requests: Any, context: Any) -> None:  # noqa: N802
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "not today")
        offer = self.ring.file.describe() if self.ring else memory_pb2.SharedFile()
        await context.write(model_pb2.FramesResponse(ring=offer))
        join = (await context.read()).join
        self.shared = self.ring is not None and self.ring.file.proven_by(join.proof)
        self.sequence = 0
        self._context = context
        self.joined.set()
        try:
            while (request := await context.read()) is not aio.EOF:
                self.heard.put_nowait(request)
        finally:
            self.joined.clear()
            self.left.set()

    async def send(self, frame: TokenFrame) -> None:
        self.sequence += 1
        size = frame_bytes(len(frame.rows), len(frame.alternatives))
        if self.shared:
            assert self.ring is not None
            span = self.ring.reserve(self.sequence, size)
            assert span is not None
            write_frame(frame, self.ring.view(span))
            sent = model_pb2.Frame(sequence=self.sequence, span=span)
        else:
            content = bytearray(size)
            write_frame(frame, memoryview(content))
            sent = model_pb2.Frame(sequence=self.sequence, inline=bytes(content))
        await self.say(model_pb2.FramesResponse(frame=sent))

    async def say(self, response: model_pb2.FramesResponse) -> None:
        await self._context.write(response)

    async def acknowledged(self, sequence: int) -> None:
        while (await self.heard.get()).ack.sequence < sequence:
            pass

    async def replay(self) -> model_pb2.Replay:
        while (request := await self.heard.get()).WhichOneof("message") != "replay":
            pass
        return request.replay


@asynccontextmanager
async def served(model: FakeModel, socket: Path) -> AsyncIterator[None]:
    server = aio.server()
    model_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class FakeRouter:
    """A Watch stream."""

    def __init__(self, channel: aio.Channel) -> None:
        self.call = detokenizer_pb2_grpc.DetokenizerServiceStub(channel).Watch()

    async def listen(self) -> int:
        listen = detokenizer_pb2.Listen(router=0xFEDCBA98)
        await self.call.write(detokenizer_pb2.WatchRequest(listen=listen))
        return (await self.call.read()).listening.vocab_size

    async def register(self, **fields: Any) -> None:
        values: dict[str, Any] = {"handle": HANDLE, "attempt": 1, "candidates": 1, **fields}
        register = detokenizer_pb2.Register(prompt_tail=ids_of("so"), **values)
        await self.call.write(detokenizer_pb2.WatchRequest(register=register))
        registered = await self.until("registered")
        assert (registered.handle, registered.attempt) == (values["handle"], values["attempt"])

    async def until(self, kind: str) -> Any:
        """The next message of `kind`; others are passed over."""
        while (response := await self.call.read()).WhichOneof("message") != kind:
            pass
        return getattr(response, kind)

    async def upstream(self) -> tuple[bool, bool]:
        upstream = await self.until("upstream")
        return upstream.linked, upstream.shared

    async def to_the_end(self) -> list[detokenizer_pb2.TextDelta]:
        """All deltas up to the one that ends a candidate."""
        deltas: list[detokenizer_pb2.TextDelta] = []
        while not (deltas and deltas[-1].finish_reason):
            deltas += (await self.until("text")).deltas
        return deltas


def text_of(deltas: Sequence[detokenizer_pb2.TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids_in(deltas: Sequence[detokenizer_pb2.TextDelta]) -> list[int]:
    return [id_ for delta in deltas for id_ in delta.token_ids]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", TOKENIZER)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "model.sock"


@contextmanager
def ring() -> Iterator[Ring]:
    file = SharedFile.create("ring", 4096)
    yield Ring(file)
    file.close()


@asynccontextmanager
async def detokenizer(checkpoint: Path, socket: Path) -> AsyncIterator[aio.Channel]:
    settings = DetokenizerSettings(
        listen="127.0.0.1:0", model=str(checkpoint), model_address=f"unix:{socket}", grace_s=0
    )
    async with (
        asyncio.timeout(60),
        serving("detokenizer", make_mount(settings), settings) as server,
        open_channel(server.address) as channel,
    ):
        yield channel


@asynccontextmanager
async def pipeline(
    checkpoint: Path, socket: Path, ring: Ring | None = None
) -> AsyncIterator[tuple[FakeModel, FakeRouter, aio.Channel]]:
    """A model joined, and a router that listens."""
    model = FakeModel(ring)
    async with served(model, socket), detokenizer(checkpoint, socket) as channel:
        await model.joined.wait()
        router = FakeRouter(channel)
        await router.listen()
        yield model, router, channel
        router.call.cancel()


async def health(channel: aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest())).status


async def described_link(channel: aio.Channel) -> service_pb2.Link:
    stub = service_pb2_grpc.IntrospectionServiceStub(channel)
    (link,) = (await stub.Describe(service_pb2.DescribeRequest())).links
    return link


@pytest.mark.parametrize("shared", [True, False])
async def test_tokens_become_text_in_shared_memory_and_inline(
    checkpoint: Path, socket: Path, shared: bool
) -> None:
    ids = ids_of(TEXT)
    with ring() as memory:
        place = memory if shared else None
        async with pipeline(checkpoint, socket, place) as (model, router, channel):
            assert await router.upstream() == (True, shared)
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
    async with pipeline(checkpoint, socket) as (model, router, _):
        await router.register(attempt=2, delivered=[delivered])
        replay = await model.replay()
        await model.send(frame_of(ids, attempt=1, flags=LENGTH))  # of a replica that was asleep
        await model.send(frame_of(ids[4:], 4, attempt=2, flags=LENGTH))
        deltas = await router.to_the_end()
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


def test_a_missing_tokenizer_is_told_in_one_line(tmp_path: Path) -> None:
    named = {
        "TRIPTYCH_DETOKENIZER_LISTEN": f"unix:{tmp_path}/detokenizer.sock",
        "TRIPTYCH_DETOKENIZER_MODEL": str(tmp_path),
        "TRIPTYCH_DETOKENIZER_MODEL_ADDRESS": f"unix:{tmp_path}/model.sock",
    }
    process = subprocess.run(
        [sys.executable, "-m", "detokenizer_svc"],
        cwd=ROOT,
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("triptych detokenizer: ")
    assert "tokenizer.json is missing; convert" in process.stderr
    assert "Traceback" not in process.stderr
