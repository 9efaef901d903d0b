"""gRPC face of the engine: leases for routers, frames for detokenizers.

What came through a router's Run stream is dropped when the stream ends. When the service is told to
stop, all streams end at once and say so; where the engine has failed they only break off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
from grpc import aio

from chassis.errors import AlreadyTaken, InvalidRequest, StartError
from chassis.links.streams import converse, ended_by, first
from chassis.memory.doorbell import Doorbell
from chassis.memory.ring import Ring
from chassis.memory.shared_file import SharedFile
from chassis.serving.introspection import medium
from model_svc.assembly import LoadedModel
from model_svc.engine.messages import Forget, ForgetRouter, Quit, Resend, Start, Stop
from model_svc.serving.frame_stream import FrameStream, transport_for
from model_svc.serving.publisher import RouterSession
from model_svc.serving.submission import read_submit
from protos import memory_pb2, model_pb2, model_pb2_grpc

log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]


class Rings:
    """The token rings of this process.

    Each is lent once: a detokenizer that was only asleep may still read what it was sent.
    """

    def __init__(self, ring_bytes: int) -> None:
        """Reserve the first, so that a lack of room is known at the start.

        Raises:
            StartError: shared memory is too small for it.
        """
        self.ring_bytes = ring_bytes
        self._spare: Ring | None = self._make() if ring_bytes else None

    def _make(self) -> Ring:
        return Ring(SharedFile.create("ring", self.ring_bytes))

    @contextmanager
    def lend(self) -> Iterator[Ring | None]:
        """Lend a ring for the block, or None where shared memory has no room for another."""
        ring, self._spare = self._spare, None
        if ring is None and self.ring_bytes:
            try:
                ring = self._make()
            except StartError as error:
                log.warning("token frames are sent in messages", extra={"reason": str(error)})
        try:
            yield ring
        finally:
            if ring is not None:
                ring.file.close()

    def close(self) -> None:
        """Remove the ring that was never lent."""
        if self._spare is not None:
            self._spare.file.close()


@contextmanager
def _bell_of(ring: Ring | None) -> Iterator[Doorbell | None]:
    """A bell beside `ring` for the block, or None where there is no ring or no pipe can be made."""
    if ring is None:
        yield None
        return
    try:
        bell = Doorbell.create()
    except StartError as error:
        log.warning("token frames are announced in messages", extra={"reason": str(error)})
        yield None
        return
    with closing(bell):
        yield bell


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Answer `triptych.internal.v1.ModelService`."""

    def __init__(self, rings: Rings, inline_bytes: int, stopping: asyncio.Event) -> None:
        """Calls wait until `serve` is given the model, and end when `stopping` is set."""
        self._rings = rings
        self._inline_bytes = inline_bytes
        self._stopping = stopping
        self._loaded = asyncio.Event()
        self._quitting = False
        self._model: LoadedModel

    def serve(self, model: LoadedModel) -> None:
        """Answer calls with `model` from now on."""
        self._model = model
        self._loaded.set()
        if self._quitting:
            model.engine.post(Quit())

    def quit(self) -> None:
        """Have the engine end, as soon as there is one."""
        self._quitting = True
        if self._loaded.is_set():
            self._model.engine.post(Quit())

    # grpc.aio takes a coroutine that writes its replies; the stub's types know generators only.
    async def Run(  # type: ignore[override]  # noqa: N802  (name fixed by the proto)
        self, requests: Any, context: Context
    ) -> None:
        """A router's lease."""
        async with ended_by(self._stopping, "model"):
            await self._run(context)

    async def _run(self, context: Context) -> None:
        await self._loaded.wait()
        request = await first(context)
        if request is None or request.WhichOneof("message") != "hello":
            raise InvalidRequest("hello", "a Run stream begins with Hello")
        router = request.hello.router
        if router in self._model.hub.leases:
            raise AlreadyTaken(f"router {router:#010x} already has a lease; draw another number")
        lease = RouterSession(router)
        self._model.hub.add_lease(lease)
        try:
            await context.write(self._welcome(lease, request.hello.arena))
            told = {"router": f"{router:#010x}"}
            log.info("router connected (%s)", medium(lease.shared), extra=told)
            await converse(context, lambda message: self._obey(lease, message), lease.take)
        finally:
            self._model.engine.post(ForgetRouter(router))
            self._model.hub.drop_lease(lease)
            log.info("router disconnected", extra={"router": f"{router:#010x}"})

    def _welcome(self, lease: RouterSession, arena: memory_pb2.SharedFile) -> model_pb2.RunResponse:
        proof = lease.arenas.prove(arena)
        lease.shared = bool(proof.nonce)
        welcome = model_pb2.Welcome()
        welcome.CopyFrom(self._model.welcome)
        welcome.proof.CopyFrom(proof)
        return model_pb2.RunResponse(welcome=welcome)

    def _obey(self, lease: RouterSession, request: model_pb2.RunRequest) -> None:
        match request.WhichOneof("message"):
            case "submit":
                self._submit(lease, request.submit)
            case "cancel":
                cancel = request.cancel
                candidate = cancel.candidate if cancel.HasField("candidate") else None
                self._model.engine.post(Stop(cancel.handle, candidate))
            case "release":
                self._model.engine.post(Forget(request.release.handle))
            case "arena":
                proof = lease.arenas.prove(request.arena)
                answer = model_pb2.ArenaProof(name=request.arena.name, proof=proof)
                lease.send(model_pb2.RunResponse(arena=answer))

    def _submit(self, lease: RouterSession, submit: model_pb2.Submit) -> None:
        try:
            if submit.handle >> 32 != lease.router:
                raise InvalidRequest("handle", "belongs to another router")
            spec = read_submit(submit, lease.arenas, self._model.limits)
        except InvalidRequest as error:
            lease.refused += 1
            log.warning(
                "request refused", extra={"request_id": submit.request_id, "reason": str(error)}
            )
            code: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            refusal = model_pb2.Refusal(
                handle=submit.handle,
                attempt=submit.attempt,
                code=code,
                message=error.description,
                field=error.field,
            )
            lease.send(model_pb2.RunResponse(refusal=refusal))
            return
        if spec.attempt > 1:
            self._model.metrics.resumed_requests.inc()
        self._model.engine.post(Start(spec))

    async def Frames(  # type: ignore[override]  # noqa: N802  (name fixed by the proto)
        self, requests: Any, context: Context
    ) -> None:
        """A detokenizer's token frames."""
        async with ended_by(self._stopping, "model"):
            await self._frames(context)

    async def _frames(self, context: Context) -> None:
        await self._loaded.wait()
        # From before the caller can know that it is linked: what comes from then on must not be
        # lost, even if it comes before Join.
        outlet = FrameStream(post=asyncio.get_running_loop().call_soon_threadsafe)
        number = self._model.hub.add_outlet(outlet)
        try:
            with self._rings.lend() as ring, _bell_of(ring) as bell:
                try:
                    await self._join(context, ring, bell, outlet)
                    await converse(
                        context, lambda message: self._hear(number, outlet, message), outlet.take
                    )
                finally:
                    outlet.close()  # before ring and bell go
        finally:
            self._model.hub.drop_outlet(number)
            log.info("detokenizer disconnected")

    async def _join(
        self, context: Context, ring: Ring | None, bell: Doorbell | None, outlet: FrameStream
    ) -> None:
        """Agree with the caller on where its frames go, and how it is told of them."""
        described = memory_pb2.SharedFile() if ring is None else ring.file.describe()
        if bell is not None:
            described.bell = bell.name
        await context.write(model_pb2.FramesResponse(ring=described))
        request = await first(context)
        if request is None or request.WhichOneof("message") != "join":
            raise InvalidRequest("join", "a Frames stream begins with Join")
        room = transport_for(ring, bell, request.join, self._inline_bytes)
        outlet.open(room)
        log.info("detokenizer connected (%s)", room.transport)

    def _hear(self, number: int, outlet: FrameStream, request: model_pb2.FramesRequest) -> None:
        match request.WhichOneof("message"):
            case "ack":
                outlet.acknowledge(request.ack.sequence)
            case "replay":
                replay = request.replay
                self._model.metrics.replays.inc()
                self._model.engine.post(
                    Resend(
                        replay.handle,
                        replay.attempt,
                        replay.candidate,
                        replay.position,
                        replay.prompt_position,
                        number,
                    )
                )
