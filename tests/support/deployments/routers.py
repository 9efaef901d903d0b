"""A router before fake services, all on unix sockets, and what its clients do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from support.fakes.router import KV_SLOTS, PATIENCE_S, FakeDetokenizer, FakeReplica, FakeTokenizer

from chassis.config import ServiceSettings
from chassis.links.channels import open_channel
from chassis.serving.server import Host, serving
from protos import (
    detokenizer_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2_grpc,
    service_pb2_grpc,
    tokenizer_pb2_grpc,
)
from router.service import mount
from router.settings import RouterSettings


@asynccontextmanager
async def served(name: str, add: Callable[[aio.Server], None], address: str) -> AsyncIterator[None]:
    """Serve a fake at `address` for the block."""

    @asynccontextmanager
    async def fake_mount(host: Host) -> AsyncIterator[None]:
        add(host.server)
        await host.set_ready(True)
        yield

    async with serving(name, fake_mount, ServiceSettings(listen=address, grace_s=0)) as server:
        yield
        server.ended.cancel()


@dataclass
class Deployment:
    """A router before fakes."""

    folder: Path
    tokenizer: FakeTokenizer
    replicas: list[FakeReplica]
    stub: Any = None
    introspection: Any = None

    @property
    def replica(self) -> FakeReplica:
        return self.replicas[0]

    def address(self, service: str) -> str:
        return f"unix:{self.folder}/{service}.sock"

    def serve_tokenizer(self) -> Any:
        return served(
            "tokenizer",
            lambda s: tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(self.tokenizer, s),
            self.address("tokenizer"),
        )

    def serve_model(self, index: int = 0) -> Any:
        return served(
            "model",
            lambda s: model_pb2_grpc.add_ModelServiceServicer_to_server(self.replicas[index], s),
            self.address(f"model{index}"),
        )

    def serve_detokenizer(self, index: int = 0) -> Any:
        fake = FakeDetokenizer(self.replicas[index])
        return served(
            "detokenizer",
            lambda s: detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(fake, s),
            self.address(f"detokenizer{index}"),
        )

    def settings(self, **settings: Any) -> RouterSettings:
        replicas = (
            f"{self.address(f'model{i}')}+{self.address(f'detokenizer{i}')}"
            for i in range(len(self.replicas))
        )
        return RouterSettings(
            **{
                "listen": self.address("router"),
                "tokenizer": self.address("tokenizer"),
                "replicas": ",".join(replicas),
                "arena_mib": 1,
                "recovery_s": PATIENCE_S,
                "grace_s": 0,
                **settings,
            }
        )


@asynccontextmanager
async def deployed(
    folder: Path,
    *,
    tokenizer: FakeTokenizer | None = None,
    replicas: list[FakeReplica] | None = None,
    fakes: bool = True,
    **settings: Any,
) -> AsyncIterator[Deployment]:
    """A router with its fakes, which are left out where a test serves them itself."""
    deployment = Deployment(folder, tokenizer or FakeTokenizer(), replicas or [FakeReplica()])
    async with AsyncExitStack() as stack:
        if fakes:
            await stack.enter_async_context(deployment.serve_tokenizer())
            for index in range(len(deployment.replicas)):
                await stack.enter_async_context(deployment.serve_model(index))
                await stack.enter_async_context(deployment.serve_detokenizer(index))
        chosen = deployment.settings(**settings)
        server = await stack.enter_async_context(serving("router", mount(chosen), chosen))
        channel = await stack.enter_async_context(open_channel(server.address))
        deployment.stub = generation_pb2_grpc.GenerationServiceStub(channel)
        deployment.introspection = service_pb2_grpc.IntrospectionServiceStub(channel)
        yield deployment
        server.ended.cancel()


def generate_request(
    text: str = "hi", max_tokens: int | None = 3, **fields: Any
) -> generation_pb2.GenerateRequest:
    """A request with a text prompt; `fields` go to the message."""
    if not {"chat", "token_ids"} & fields.keys():
        fields["text"] = text
    stop = fields.pop("stop", generation_pb2.StopConditions())
    if max_tokens is not None:
        stop.max_tokens = max_tokens
    return generation_pb2.GenerateRequest(stop=stop, **fields)


async def collect(call: Any) -> list[Any]:
    """All messages of a stream."""
    async with asyncio.timeout(PATIENCE_S):
        return [message async for message in call]


async def failure(call: Any) -> aio.AioRpcError:
    """How a call fails."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")


def details_of(error: grpc.RpcError) -> Iterator[Any]:
    """The unpacked google.rpc details of an error."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for box in status_pb2.Status.FromString(value).details:
                for kind in ("ErrorInfo", "BadRequest", "RetryInfo"):
                    detail = getattr(error_details_pb2, kind)()
                    if box.Unpack(detail):
                        yield detail


@asynccontextmanager
async def severable(path: Path, target: Path) -> AsyncIterator[Callable[[], None]]:
    """A wire from the socket `path` to the socket `target`; yields what cuts it."""
    ends: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        ends.extend((writer, far_writer))
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    def sever() -> None:
        for writer in ends:
            writer.transport.abort()

    server = await asyncio.start_unix_server(connect, path)
    try:
        yield sever
    finally:
        server.close()
        sever()


def cancelled(call: Any) -> None:
    """Cancel a call, as a client that goes away does."""
    with suppress(asyncio.CancelledError):
        call.cancel()


def held_back() -> FakeReplica:
    """A replica that steps only when a test says so."""
    replica = FakeReplica()
    replica.automatic = False
    return replica


def texts(messages) -> list[list[str]]:
    return [[delta.text for delta in message.deltas] for message in messages]


async def fill(deployment, submits: int = 1) -> None:
    """Have the replica report that it has no room, and the router know it."""
    deployment.replica.send_load(submits_seen=submits, running=8, kv_slots_used=KV_SLOTS)
    await load_until(deployment, lambda load: load.kv_slots_used == KV_SLOTS)


async def load_until(deployment, holds):
    """The router's load, once `holds` of it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            load = await deployment.stub.GetLoad(generation_pb2.GetLoadRequest())
            if holds(load):
                return load
