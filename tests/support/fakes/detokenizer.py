"""What stands beside a detokenizer under test: a model and a router that obey the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio
from support.tiny_tokenizers import byte_level

from chassis.links.channels import open_channel
from chassis.memory.doorbell import Doorbell
from chassis.memory.ring import Ring
from chassis.memory.shared_file import SharedFile
from chassis.serving.server import serving
from detokenizer_svc.service import make_mount
from detokenizer_svc.settings import DetokenizerSettings
from protos import (
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    memory_pb2,
    model_pb2,
    model_pb2_grpc,
)
from protos.announcement import Announcement, write_announcement
from protos.token_frame import ALTERNATIVE, ROW, TokenFrame, frame_bytes, write_frame

TOKENIZER = byte_level()
TEXT = "the quick dog, 世界 🌍"
HANDLE = 0xFEDCBA9800000001


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

    def __init__(self, ring: Ring | None, bell: Doorbell | None = None) -> None:
        self.ring = ring
        self.bell = bell
        self.hears = False
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
        if self.bell is not None:
            offer.bell = self.bell.name
        await context.write(model_pb2.FramesResponse(ring=offer))
        join = (await context.read()).join
        self.hears = join.hears
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

    async def send(self, frame: TokenFrame, *, acknowledge: bool = True) -> None:
        self.sequence += 1
        size = frame_bytes(len(frame.rows), len(frame.alternatives))
        if self.shared:
            assert self.ring is not None
            span = self.ring.reserve(self.sequence, size)
            assert span is not None
            write_frame(frame, self.ring.view(span))
            if self.hears:
                self.announce(Announcement(self.sequence, span.offset, size, acknowledge))
                return
            sent = model_pb2.Frame(sequence=self.sequence, span=span)
        else:
            content = bytearray(size)
            write_frame(frame, memoryview(content))
            sent = model_pb2.Frame(sequence=self.sequence, inline=bytes(content))
        sent.acknowledge = acknowledge
        await self.say(model_pb2.FramesResponse(frame=sent))

    def announce(self, announcement: Announcement) -> None:
        assert self.bell is not None
        assert self.bell.ring(write_announcement(announcement))

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

    def __init__(self, channel: aio.Channel, *, wait_for_ready: bool = False) -> None:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        self.call = stub.Watch(wait_for_ready=wait_for_ready)

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


@contextmanager
def ring() -> Iterator[Ring]:
    file = SharedFile.create("ring", 4096)
    yield Ring(file)
    file.close()


@contextmanager
def bell() -> Iterator[Doorbell]:
    bell = Doorbell.create()
    yield bell
    bell.close()


@asynccontextmanager
async def detokenizer(checkpoint: Path, socket: Path, **more: Any) -> AsyncIterator[aio.Channel]:
    settings = DetokenizerSettings(
        listen="127.0.0.1:0",
        model=str(checkpoint),
        model_address=f"unix:{socket}",
        grace_s=0,
        **more,
    )
    async with (
        asyncio.timeout(60),
        serving("detokenizer", make_mount(settings), settings) as server,
        open_channel(server.address) as channel,
    ):
        yield channel


@asynccontextmanager
async def pipeline(
    checkpoint: Path, socket: Path, ring: Ring | None = None, bell: Doorbell | None = None
) -> AsyncIterator[tuple[FakeModel, FakeRouter, aio.Channel]]:
    """A model joined, and a router that listens."""
    model = FakeModel(ring, bell)
    async with served(model, socket), detokenizer(checkpoint, socket) as channel:
        await model.joined.wait()
        router = FakeRouter(channel)
        await router.listen()
        yield model, router, channel
        router.call.cancel()
