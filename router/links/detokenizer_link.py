"""The router's side of one detokenizer's Watch stream: registrations down, text up.

The stream is a lease: the detokenizer drops what was registered through it when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from grpc import aio

from chassis.links.reconnecting_stream import Ending, ReconnectingStream
from protos import detokenizer_pb2, detokenizer_pb2_grpc
from router.links.events import (
    DetokenizerEvent,
    DetokenizerLost,
    DetokenizerReady,
    Registered,
    Text,
    UpstreamChanged,
)
from router.links.messages import delta_of, registration
from router.links.peer_errors import from_peer, is_away
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)


class DetokenizerLink:
    """The Watch stream of a detokenizer, and its Decode.

    Attributes:
        up: true while the detokenizer takes registrations.
        upstream: the detokenizer's own link to the model.
    """

    def __init__(
        self,
        channel: aio.Channel,
        router_id: Callable[[], int],
        emit: Callable[[DetokenizerEvent], None],
    ) -> None:
        """Prepare the link.

        Args:
            channel: to the detokenizer.
            router_id: the number to listen with, asked for each stream.
            emit: takes the events.
        """
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        self._stub = stub
        self._router_id = router_id
        self._emit = emit
        self.up = False
        self.upstream = detokenizer_pb2.Upstream()
        self._stream: ReconnectingStream[
            detokenizer_pb2.WatchRequest, detokenizer_pb2.WatchResponse
        ] = ReconnectingStream(
            lambda: stub.Watch(wait_for_ready=True), self._listen, self._receive, self._lost
        )
        self.run = self._stream.run
        self.restart = self._stream.restart

    async def decode(
        self, request_id: str, ids: Sequence[int], *, skip_special_tokens: bool, timeout_s: float
    ) -> str | None:
        """Turn ids into text; None: the detokenizer is away.

        Raises:
            ServiceError: it failed.
        """
        request = detokenizer_pb2.DecodeRequest(
            request_id=request_id, token_ids=ids, skip_special_tokens=skip_special_tokens
        )
        try:
            return (await self._stub.Decode(request, timeout=timeout_s)).text
        except aio.AioRpcError as error:
            if is_away(error):
                return None
            raise from_peer(error, "detokenizer", "token_ids") from error

    def register(self, request: RouterRequest) -> None:
        """Have it turn the tokens of `request` into text."""
        self._stream.send(detokenizer_pb2.WatchRequest(register=registration(request)))

    def forget(self, handle: int) -> None:
        """Have it forget a request."""
        self._stream.send(
            detokenizer_pb2.WatchRequest(forget=detokenizer_pb2.Forget(handle=handle))
        )

    def _listen(self) -> detokenizer_pb2.WatchRequest:
        return detokenizer_pb2.WatchRequest(listen=detokenizer_pb2.Listen(router=self._router_id()))

    def _receive(self, response: detokenizer_pb2.WatchResponse) -> None:
        match response.WhichOneof("message"):
            case "text":
                self._emit(Text(map(delta_of, response.text.deltas)))
            case "registered":
                registered = response.registered
                self._emit(Registered(registered.handle, registered.attempt))
            case "listening":
                self.up = True
                log.info("detokenizer connected")
                self._emit(DetokenizerReady())
            case "upstream":
                self.upstream = response.upstream
                self._emit(UpstreamChanged())

    def _lost(self, ending: Ending) -> None:
        if self.up and not ending.closed_here:
            cause = {"code": ending.code.name, "cause": ending.details}
            log.warning("connection to the detokenizer lost", extra=cause)
        self.up = False
        self.upstream = detokenizer_pb2.Upstream()
        self._emit(DetokenizerLost(ending))
