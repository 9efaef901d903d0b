"""Fake services before which a router is tested, over real sockets.

The fake tokenizer's ids are UTF-8 bytes. The fake replica answers each submit with as many tokens
as asked for, whose text is `a `, `b `, …; a test may hold its steps back and take them one by one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc

from chassis.errors import AlreadyTaken, InvalidRequest, Unavailable
from chassis.links.streams import converse, first
from chassis.memory.shared_file import PeerFiles
from protos import (
    detokenizer_pb2,
    detokenizer_pb2_grpc,
    generation_pb2,
    model_pb2,
    model_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)

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

    def __init__(self, shared: bool = True, bytes_per_id: int = 0) -> None:
        self.bytes_per_id = bytes_per_id
        self.failure: Exception | None = None
        self.encodes = Seen()
        self.answered = Seen()
        self.recalled = Seen()
        self.files = PeerFiles(writable=True)
        self.shared = shared
        self.hold = asyncio.Event()
        self.hold.set()

    async def Attach(self, request, context):  # noqa: N802
        if not self.shared:
            return tokenizer_pb2.AttachResponse()
        return tokenizer_pb2.AttachResponse(proof=self.files.prove(request.arena))

    async def GetVocabulary(self, request, context):  # noqa: N802
        return tokenizer_pb2.GetVocabularyResponse(most_bytes_per_id=self.bytes_per_id)

    async def Encode(self, request, context):  # noqa: N802
        self.encodes.add(request)
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.recalled.add(request)
            raise
        if self.failure is not None:
            raise self.failure
        text = request.text
        if request.WhichOneof("prompt") == "chat":
            if request.chat.messages[0].role == "bad":
                raise InvalidRequest("chat", "the template says: no such role")
            text = "".join(f"<{m.role}>{m.content}" for m in request.chat.messages)
        ids = list(text.encode())
        if request.add_special_tokens:
            ids.insert(0, 256)
        if 0 < request.most_ids < len(ids):
            most = request.most_ids
            raise InvalidRequest("prompt", f"has {len(ids)} tokens, more than the {most} that fit")
        ids = ids[-request.truncate_ids :]  # all for 0
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
            bad_words=[
                generation_pb2.TokenIds(ids=written.encode())
                for word in request.bad_words
                for written in (word, f" {word}")
            ],
        )


@dataclass
class Sender:
    """What a fake sends over one stream."""

    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def send(self, **message: Any) -> None:
        self.queue.put_nowait(message)


class FakeReplica(model_pb2_grpc.ModelServiceServicer):
    """A model whose steps go straight to its detokenizer's Watch streams."""

    def __init__(
        self, shared: bool = True, kv_slots: int = KV_SLOTS, context: int = CONTEXT
    ) -> None:
        self.hellos, self.submits, self.cancels, self.releases = Seen(), Seen(), Seen(), Seen()
        self.registers, self.forgets, self.listens = Seen(), Seen(), Seen()
        self.prompts: list[list[int]] = []
        self.kv_slots = kv_slots
        self.context = context
        self.shared = shared
        self.taken: set[int] = set()  # router ids to be refused
        self.refusal: model_pb2.Refusal | None = None
        self.defaults: generation_pb2.SamplingParams | None = None
        self.automatic = True
        self.incarnation = 1
        self._calls: dict[Any, str] = {}  # stream → run or watch
        self._orderly = True
        self._runs: list[Sender] = []
        self.watches: list[Sender] = []
        self._produced: dict[tuple[int, int], int] = {}

    # The model's side.

    async def Run(self, requests, context):  # noqa: N802
        hello = (await first(context)).hello
        if hello.router in self.taken:
            raise AlreadyTaken("another router has this number")
        self.hellos.add(hello)
        files, sender = PeerFiles(), Sender()
        welcome = model_pb2.Welcome(
            proof=files.prove(hello.arena) if self.shared else None,
            model=generation_pb2.Model(
                name="fake",
                context_length=self.context,
                vocab_size=VOCAB,
                generation_defaults=self.defaults,
            ),
            kv_slots=self.kv_slots,
            max_sequences=8,
            incarnation=self.incarnation,
        )
        await context.write(model_pb2.RunResponse(welcome=welcome))
        self._runs.append(sender)
        await self._serve(context, sender, model_pb2.RunResponse, lambda m: self._obey(files, m))

    async def Frames(self, requests, context):  # noqa: N802
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
        for one in submit.progress:
            self._produced[submit.handle, one.candidate] = len(one.ids) // 4
        if self.refusal is not None:
            refusal = model_pb2.Refusal(handle=submit.handle, attempt=submit.attempt)
            refusal.MergeFrom(self.refusal)
            self._runs[-1].send(refusal=refusal)
        elif self.automatic:
            earlier = max((len(one.ids) // 4 for one in submit.progress), default=0)
            steps = max(1, submit.stop.max_tokens) - earlier
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

        task = asyncio.create_task(converse(context, take, next_response))
        self._calls[task] = "run" if message_class is model_pb2.RunResponse else "watch"
        try:
            await asyncio.wait([task])
        finally:
            del self._calls[task]
            task.cancel()
        if task.cancelled() and not self._orderly:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone without a word")
        if task.cancelled():
            raise Unavailable("dropped by the test")

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

    def drop_streams(self, kind="", *, orderly=True):
        """End all streams, or those of a kind; in order, or as a connection that is gone does."""
        self._orderly = orderly
        for task, its_kind in list(self._calls.items()):
            if kind in ("", its_kind):
                task.cancel()

    def crash(self):
        """End the Run stream as a model that dies does, and come back as another process."""
        self.incarnation += 1
        self.drop_streams("run", orderly=False)


class FakeDetokenizer(detokenizer_pb2_grpc.DetokenizerServiceServicer):
    def __init__(self, replica: FakeReplica) -> None:
        self._replica = replica

    async def Watch(self, requests, context):  # noqa: N802
        await self._replica.watch(context)

    async def Decode(self, request, context):  # noqa: N802
        ids = [i for i in request.token_ids if i < 256 or not request.skip_special_tokens]
        return detokenizer_pb2.DecodeResponse(text="".join(chr(i) for i in ids))
