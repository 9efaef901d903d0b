"""The link to the model: token frames in, acknowledgements and requests for lost rows out.

A frame is acknowledged only after all of it was taken in, because its memory is reused then.
Whenever the link ends it is made again, and then all rows that may have been lost are requested.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from grpc import aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from chassis.links.reconnecting_stream import Reconnector, write_from
from chassis.mailbox import Mailbox
from chassis.memory.shared_file import PeerFiles
from chassis.serving.introspection import medium, transport
from detokenizer_svc.registry import Registry, Replays
from detokenizer_svc.ring_listener import listening, receiving
from protos import memory_pb2, model_pb2, model_pb2_grpc, service_pb2
from protos.announcement import Announcement
from protos.token_frame import FrameError, read_frame

log = logging.getLogger(__name__)

_SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 0.1)

Call = aio.StreamStreamCall[model_pb2.FramesRequest, model_pb2.FramesResponse]


class LinkMetrics:
    """Counts of the link, and of the requests that routers registered."""

    def __init__(self, registry: CollectorRegistry, requests: Callable[[], int]) -> None:
        prefix = "triptych_detokenizer"
        self.frames = Counter(f"{prefix}_frames", "Token frames read.", registry=registry)
        self.rows = Counter(f"{prefix}_rows", "Rows of token frames read.", registry=registry)
        self.fenced = Counter(
            f"{prefix}_fenced_rows", "Rows dropped because nobody wants them.", registry=registry
        )
        self.gaps = Counter(f"{prefix}_gaps", "Times rows were left out.", registry=registry)
        self.replays = Counter(f"{prefix}_replays", "Requests for lost rows.", registry=registry)
        self.renewals = Counter(
            f"{prefix}_renewed_registrations",
            "Requests registered with something delivered before.",
            registry=registry,
        )
        self.seconds = Histogram(
            f"{prefix}_frame_seconds",
            "Time to take in one token frame.",
            buckets=_SECONDS,
            registry=registry,
        )
        Gauge(
            f"{prefix}_requests", "Requests whose text is wanted.", registry=registry
        ).set_function(requests)


@dataclass(frozen=True, slots=True)
class LinkState:
    """State of the link: frames arrive, in shared memory or in messages."""

    linked: bool = False
    shared: bool = False


class ModelLink:
    """The one reader of a model's token frames.

    Attributes:
        state: of the link, now. It is linked once Join is sent: no row that comes from then on is
            lost, for the model reports those it could not send.
        metrics: what is counted.
    """

    def __init__(
        self,
        channel: aio.Channel,
        address: str,
        registry: Registry,
        metrics: LinkMetrics,
        changed: Callable[[LinkState], Awaitable[None]],
    ) -> None:
        """Prepare the link.

        Args:
            channel: to the model service; its opener closes it.
            address: of the model service, to name it by.
            registry: takes the frames in.
            metrics: counts.
            changed: called at each change of `state`.
        """
        self._stub = model_pb2_grpc.ModelServiceStub(channel)
        self.address = address
        self.state = LinkState()
        self._registry = registry
        self.metrics = metrics
        self._changed = changed
        self._replays: Replays = []
        self._read_up_to = 0
        self._acknowledged = 0
        self._outgoing: Mailbox[model_pb2.FramesRequest] = Mailbox(self._next_request)
        self.run = Reconnector(self._converse).run

    def ask(self, replays: Replays) -> None:
        """Ask for rows; without a link this is left to the next one."""
        if replays and self.state.linked:
            self.metrics.replays.inc(len(replays))
            self._replays += replays
            self._outgoing.notify()

    def describe(self) -> service_pb2.Link:
        """The link, for introspection."""
        way = service_pb2.TRANSPORT_UNSPECIFIED
        if self.state.linked:
            way = transport(self.state.shared)
        return service_pb2.Link(
            service="model", address=self.address, ready=self.state.linked, transport=way
        )

    async def _converse(self) -> bool:
        """Read frames until the link ends; return whether it began."""
        call: Call = self._stub.Frames(wait_for_ready=True)
        files = PeerFiles()
        cause = "the model ended it"
        try:
            offer = await call.read()
            if isinstance(offer, model_pb2.FramesResponse):
                await self._follow(call, files, offer.ring)
        except aio.AioRpcError as error:
            cause = f"{error.code().name}: {error.details()}"
        except asyncio.InvalidStateError:
            cause = "the model ended it before it was joined"
        except (FrameError, KeyError, ValueError) as error:
            cause = f"a frame that cannot be read: {error}"
        except asyncio.CancelledError:
            cause = ""  # it is this process that stops
            raise
        finally:
            call.cancel()
            files.close()
            joined = self.state.linked
            if cause:
                log.warning(
                    "connection to the model lost" if joined else "cannot connect to the model",
                    extra={"address": self.address, "cause": cause},
                )
            if joined:
                await self._change(LinkState())
        return joined

    async def _follow(self, call: Call, files: PeerFiles, ring: memory_pb2.SharedFile) -> None:
        """Agree on the ring and read frames until the link ends."""
        proof = files.prove(ring)
        shared = bool(proof.nonce)

        def take(announced: Announcement) -> None:
            span = memory_pb2.Span(name=ring.name, offset=announced.offset, length=announced.length)
            self._take(files.view(span), announced.sequence, acknowledge=announced.acknowledge)

        # Opened before the model can ring, so that no announcement is missed.
        with listening(ring.bell if shared else "") as listener:
            join = model_pb2.Join(proof=proof, hears=listener is not None)
            await call.write(model_pb2.FramesRequest(join=join))
            log.info("model connected (%s)", medium(shared), extra={"address": self.address})
            await self._change(LinkState(linked=True, shared=shared))
            with receiving(listener, take) as failed:
                await self._read(call, files, failed)

    async def _change(self, state: LinkState) -> None:
        self.state = state
        self._read_up_to = self._acknowledged = 0
        self._replays.clear()
        self.ask(self._registry.all_missing())
        await self._changed(state)

    async def _read(self, call: Call, files: PeerFiles, failed: asyncio.Future[None]) -> None:
        """Read messages, and write, until the model ends the call or `failed` has an outcome."""
        writer = asyncio.create_task(write_from(self._outgoing, call))
        reader = asyncio.create_task(self._read_messages(call, files))
        try:
            ended, _ = await asyncio.wait([reader, failed], return_when=asyncio.FIRST_COMPLETED)
            await ended.pop()
        finally:
            writer.cancel()
            reader.cancel()
            await asyncio.wait([writer, reader])

    async def _read_messages(self, call: Call, files: PeerFiles) -> None:
        while isinstance(response := await call.read(), model_pb2.FramesResponse):
            kind = response.WhichOneof("message")
            if kind == "frame":
                frame = response.frame
                in_ring = frame.WhichOneof("place") == "span"
                place = files.view(frame.span) if in_ring else frame.inline
                self._take(place, frame.sequence, acknowledge=frame.acknowledge)
            elif kind == "gap":
                self.metrics.gaps.inc()
                self.ask(self._registry.missing(response.gap))

    def _take(self, place: memoryview | bytes, sequence: int, *, acknowledge: bool) -> None:
        begun = time.perf_counter()
        metrics, registry = self.metrics, self._registry
        content = read_frame(place)
        fenced_before = registry.fenced_rows
        self.ask(registry.process(content))
        if acknowledge:
            self._read_up_to = sequence
            self._outgoing.notify()
        metrics.frames.inc()
        metrics.rows.inc(len(content.rows))
        metrics.fenced.inc(registry.fenced_rows - fenced_before)
        metrics.seconds.observe(time.perf_counter() - begun)

    def _next_request(self) -> model_pb2.FramesRequest | None:
        """Acknowledge what was read, else request the next of the lost rows."""
        if self._read_up_to > self._acknowledged:
            self._acknowledged = self._read_up_to
            return model_pb2.FramesRequest(ack=model_pb2.Ack(sequence=self._acknowledged))
        if self._replays:
            return model_pb2.FramesRequest(replay=self._replays.pop(0))
        return None
