"""In-process tokenizer, model and detokenizer over real sockets, and a router before them.

The fake tokenizer's ids are UTF-8 bytes. The fake replica answers each submit with as many tokens
as asked for, whose text is `a `, `b `, …; a test may hold its steps back or take them one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from chassis.channels import open_channel
from chassis.config import ServiceSettings
from chassis.errors import AlreadyTaken, InvalidRequest
from chassis.server import Host, serving
from chassis.shared_file import PeerFiles
from chassis.streams import converse, first
from protos import (
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    service_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from router.service import mount
from router.settings import RouterSettings

PATIENCE_S = 10
CONTEXT = 64
VOCAB = 300
KV_SLOTS = 200

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH


class Seen:
    """What a fake was sent, in order, and a way to wait for more."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._more = asyncio.Event()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def add(self, item: Any) -> None:
        self.items.append(item)
        self._more.set()

    async def until(self, count: int) -> None:
        """Wait until there are `count`."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.items) < count:
                self._more.clear()
                await self._more.wait()


class FakeTokenizer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Ids are UTF-8 bytes; a special id 256 comes first where asked for."""

    def __init__(self, shared: bool = True) -> None:
        self.encodes = Seen()
        self.answered = Seen()
        self.files = PeerFiles(writable=True)
        self.shared = shared
        self.hold = asyncio.Event()
        self.hold.set()

    async def Attach(self, request, context):
        if not self.shared:
            return tokenizer_pb2.AttachResponse()
        return tokenizer_pb2.AttachResponse(proof=self.files.prove(request.arena))

    async def Encode(self, request, context):
        self.encodes.add(request)
        await self.hold.wait()
        text = request.text
        if request.WhichOneof("prompt") == "chat":
            if request.chat.messages[0].role == "bad":
                raise InvalidRequest("chat", "the template says: no such role")
            text = "".join(f"<{m.role}>{m.content}" for m in request.chat.messages)
        ids = list(text.encode())
        if request.add_special_tokens:
            ids.insert(0, 256)
        self.answered.add(request)
        return self._answer(request, text, ids)

    def _answer(self, request, text, ids):
        raw = b"".join(i.to_bytes(4, "little") for i in ids)
        in_slab = request.HasField("slab") and len(raw) <= request.slab.length
        if in_slab:
            self.files.view(request.slab)[: len(raw)] = raw
        return tokenizer_pb2.EncodeResponse(
            count=len(ids),
            in_slab=in_slab,
            ids=b"" if in_slab else raw,
            text=text if request.want_text else "",
            tokens=[bytes([i]) for i in ids] if request.want_tokens else [],
        )


@dataclass
class Sender:
    """What a fake sends over one stream."""

    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def send(self, **message: Any) -> None:
        self.queue.put_nowait(message)


class FakeReplica(model_pb2_grpc.ModelServiceServicer):
    """A model whose steps go straight to its detokenizer's Watch streams."""

    def __init__(self, shared: bool = True, kv_slots: int = KV_SLOTS) -> None:
        self.hellos, self.submits, self.cancels, self.releases = Seen(), Seen(), Seen(), Seen()
        self.registers, self.forgets, self.listens = Seen(), Seen(), Seen()
        self.prompts: list[list[int]] = []
        self.kv_slots = kv_slots
        self.shared = shared
        self.taken: set[int] = set()  # router ids to be refused
        self.refusal: model_pb2.Refusal | None = None
        self.automatic = True
        self._calls: list[Any] = []
        self._runs: list[Sender] = []
        self.watches: list[Sender] = []
        self._produced: dict[tuple[int, int], int] = {}

    # The model's side.

    async def Run(self, requests, context):
        hello = (await first(context)).hello
        if hello.router in self.taken:
            raise AlreadyTaken("another router has this number")
        self.hellos.add(hello)
        files, sender = PeerFiles(), Sender()
        welcome = model_pb2.Welcome(
            proof=files.prove(hello.arena) if self.shared else None,
            model=generation_pb2.Model(name="fake", context_length=CONTEXT, vocab_size=VOCAB),
            kv_slots=self.kv_slots,
            max_sequences=8,
        )
        await context.write(model_pb2.RunResponse(welcome=welcome))
        self._runs.append(sender)
        await self._serve(context, sender, model_pb2.RunResponse, lambda m: self._obey(files, m))

    async def Frames(self, requests, context):
        raise NotImplementedError

    def _obey(self, files, request):
        match request.WhichOneof("message"):
            case "submit":
                self._submit(files, request.submit)
            case "cancel":
                self.cancels.add(request.cancel)
            case "release":
                self.releases.add(request.release.handle)
            case "arena":
                proof = files.prove(request.arena)
                answer = model_pb2.ArenaProof(name=request.arena.name, proof=proof)
                self._runs[-1].send(arena=answer)

    def _submit(self, files, submit):
        raw = files.view(submit.slab) if submit.HasField("slab") else submit.ids
        self.prompts.append(
            [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]
        )
        self.submits.add(submit)
        if self.refusal is not None:
            refusal = model_pb2.Refusal(handle=submit.handle, attempt=submit.attempt)
            refusal.MergeFrom(self.refusal)
            self._runs[-1].send(refusal=refusal)
        elif self.automatic:
            steps = max(1, submit.stop.max_tokens)
            for step in range(steps):
                self.step(submit, finish=LENGTH if step == steps - 1 else 0)

    # The detokenizer's side.

    async def watch(self, context):
        self.listens.add((await first(context)).listen)
        sender = Sender()
        self.watches.append(sender)
        sender.send(listening=detokenizer_pb2.Listening(vocab_size=VOCAB))
        sender.send(upstream=detokenizer_pb2.Upstream(linked=True, shared=True))
        await self._serve(
            context, sender, detokenizer_pb2.WatchResponse, lambda m: self._hear(sender, m)
        )

    def _hear(self, sender, request):
        if request.HasField("register"):
            register = request.register
            self.registers.add(register)
            sender.send(
                registered=detokenizer_pb2.Registered(
                    handle=register.handle, attempt=register.attempt
                )
            )
        elif request.HasField("forget"):
            self.forgets.add(request.forget.handle)

    async def _serve(self, context, sender, message_class, take):
        async def next_response():
            return message_class(**await sender.queue.get())

        task = asyncio.current_task()
        self._calls.append(task)
        try:
            await converse(context, take, next_response)
        finally:
            self._calls.remove(task)

    # What tests do.

    def step(self, submit, candidates=None, *, finish=0, **more):
        """Produce one token for each of `candidates` (all), and send it to the router."""
        deltas = []
        for candidate in candidates or range(submit.sampling.n):
            key = (submit.handle, candidate)
            position = self._produced.setdefault(key, 0)
            ids = [] if submit.stop.max_tokens == 0 else [97 + position % 26]
            self._produced[key] += len(ids)
            delta = {
                "handle": submit.handle,
                "attempt": submit.attempt,
                "candidate": candidate,
                "position": position,
                "token_ids": ids,
                "text": "".join(f"{chr(i)} " for i in ids),
                "finish_reason": finish,
            }
            deltas.append(detokenizer_pb2.TextDelta(**{**delta, **more}))
        self.send_text(deltas)

    def send_text(self, deltas):
        self.watches[-1].send(text=detokenizer_pb2.TextFrame(deltas=deltas))

    def send_load(self, **load):
        self._runs[-1].send(load=model_pb2.Load(**load))

    def link(self, linked):
        self.watches[-1].send(upstream=detokenizer_pb2.Upstream(linked=linked))

    def drop_streams(self):
        """End all streams, as a process that dies does."""
        for task in list(self._calls):
            task.cancel()


class FakeDetokenizer(detokenizer_pb2_grpc.DetokenizerServiceServicer):
    def __init__(self, replica: FakeReplica) -> None:
        self._replica = replica

    async def Watch(self, requests, context):
        await self._replica.watch(context)

    async def Decode(self, request, context):
        ids = [i for i in request.token_ids if i < 256 or not request.skip_special_tokens]
        return detokenizer_pb2.DecodeResponse(text="".join(chr(i) for i in ids))


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
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

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
    from google.rpc import error_details_pb2, status_pb2

    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for box in status_pb2.Status.FromString(value).details:
                for kind in ("ErrorInfo", "BadRequest", "RetryInfo"):
                    detail = getattr(error_details_pb2, kind)()
                    if box.Unpack(detail):
                        yield detail


def cancelled(call: Any) -> None:
    """Cancel a call, as a client that goes away does."""
    with suppress(asyncio.CancelledError):
        call.cancel()
