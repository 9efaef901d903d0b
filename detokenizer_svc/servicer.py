"""gRPC interface of the detokenizer: Watch streams of routers, and whole texts.

What a router registered through its Watch stream is dropped when the stream ends. When the service
is to stop, all of them end at once with that reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from grpc import aio

from chassis.errors import InvalidRequest
from chassis.links.streams import converse, ended_by, first
from chassis.logs import about
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.model_link import LinkState, ModelLink
from detokenizer_svc.registry import Registry
from detokenizer_svc.watch_stream import DeltaSender
from protos import detokenizer_pb2, detokenizer_pb2_grpc

log = logging.getLogger(__name__)

_SLICE_IDS = 2048  # decoded at once

Context = aio.ServicerContext[Any, Any]


class DetokenizerServicer(detokenizer_pb2_grpc.DetokenizerServiceServicer):
    """Answer `triptych.internal.v1.DetokenizerService`."""

    def __init__(
        self,
        spelling: Vocabulary,
        registry: Registry,
        vocab_size: int,
        stopping: asyncio.Event,
        most_text_bytes: int = 31 << 20,
    ) -> None:
        """Prepare to answer.

        Args:
            spelling: how ids are spelled.
            registry: takes in what routers register.
            vocab_size: ids below it are known; those that the tokenizer lacks have no text.
            stopping: ends all Watch streams when it is set.
            most_text_bytes: bytes of a text that Decode answers.
        """
        self._stopping = stopping
        self._most_text_bytes = most_text_bytes
        self._spelling = spelling
        self._registry = registry
        self._vocab_size = vocab_size
        self._outboxes: set[DeltaSender] = set()
        self._link: ModelLink

    def attach(self, link: ModelLink) -> None:
        """Request rows from `link` and report its state; called before anything is served."""
        self._link = link

    def tell(self, state: LinkState) -> None:
        """Send the state of the link to the model to all routers."""
        for outbox in self._outboxes:
            outbox.send(_upstream(state))

    async def Watch(  # type: ignore[override]  # noqa: N802  (name fixed by the proto)
        self, requests: Any, context: Context
    ) -> None:
        """A router's lease."""
        async with ended_by(self._stopping, "detokenizer"):
            await self._watch(context)

    async def _watch(self, context: Context) -> None:
        request = await first(context)
        if request is None or request.WhichOneof("message") != "listen":
            raise InvalidRequest("listen", "a Watch stream begins with Listen")
        router = f"{request.listen.router:#010x}"
        listening = detokenizer_pb2.Listening(vocab_size=self._vocab_size)
        outbox = DeltaSender(self._spelling.piece)
        outbox.send(detokenizer_pb2.WatchResponse(listening=listening))
        outbox.send(_upstream(self._link.state))
        self._outboxes.add(outbox)
        log.info("router connected", extra={"router": router})
        try:
            await converse(context, lambda message: self._obey(outbox, message), outbox.take)
        finally:
            self._outboxes.discard(outbox)
            self._registry.forget_all(outbox)
            log.info("router disconnected", extra={"router": router})

    def _obey(self, outbox: DeltaSender, request: detokenizer_pb2.WatchRequest) -> None:
        match request.WhichOneof("message"):
            case "register":
                self._register(outbox, request.register)
            case "forget":
                self._registry.forget(request.forget.handle, outbox)

    def _register(self, outbox: DeltaSender, register: detokenizer_pb2.Register) -> None:
        with about(register.request_id or "-"):
            replays = self._registry.register(register, outbox)
            log.debug("registered", extra={"attempt": register.attempt, "replays": len(replays)})
        if register.delivered:
            self._link.metrics.renewals.inc()
        self._link.ask(replays)
        registered = detokenizer_pb2.Registered(handle=register.handle, attempt=register.attempt)
        outbox.send(detokenizer_pb2.WatchResponse(registered=registered))

    async def Decode(  # noqa: N802  (name fixed by the proto)
        self, request: detokenizer_pb2.DecodeRequest, context: Context
    ) -> detokenizer_pb2.DecodeResponse:
        """Turn ids into text, a slice at a time, so that no stream waits."""
        ids = request.token_ids
        highest = max(ids, default=0)
        if highest >= self._vocab_size:
            raise InvalidRequest("token_ids", f"{highest} is not below {self._vocab_size}")
        skip_special = request.skip_special_tokens
        if len(ids) <= _SLICE_IDS:
            text = self._spelling.decode(ids, skip_special=skip_special)
            return detokenizer_pb2.DecodeResponse(text=text)
        await self._check_size(ids)
        decoder = self._spelling.decoder((), skip_special=skip_special)
        parts = []
        for start in range(0, len(ids), _SLICE_IDS):
            parts.append("".join(map(decoder.feed, ids[start : start + _SLICE_IDS])))
            await asyncio.sleep(0)
        return detokenizer_pb2.DecodeResponse(text="".join(parts) + decoder.held())

    async def _check_size(self, ids: Sequence[int]) -> None:
        """Check that the text of `ids` fits a message, before any of it is made.

        Raises:
            InvalidRequest: it may not.
        """
        size = 0
        for start in range(0, len(ids), _SLICE_IDS):
            size += sum(len(self._spelling.piece(each)) for each in ids[start : start + _SLICE_IDS])
            await asyncio.sleep(0)
        if size > self._most_text_bytes:
            raise InvalidRequest(
                "token_ids",
                f"{len(ids)} ids have {size} bytes, more than the {self._most_text_bytes} of an "
                "answer",
            )


def _upstream(state: LinkState) -> detokenizer_pb2.WatchResponse:
    upstream = detokenizer_pb2.Upstream(linked=state.linked, shared=state.shared)
    return detokenizer_pb2.WatchResponse(upstream=upstream)
