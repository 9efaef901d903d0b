"""The router's side of one detokenizer's Watch stream: registrations down, text up.

The stream is a lease: what was registered through it is gone when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)

TAIL_IDS = 16  # the detokenizer needs enough of the prompt to spell the first output token


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
        self.decode = stub.Decode
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

    def register(self, live: RouterRequest) -> None:
        """Have it turn the tokens of `live` into text."""
        self._stream.send(detokenizer_pb2.WatchRequest(register=registration(live)))

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
                self._emit(Text(response.text.deltas))
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


def registration(live: RouterRequest) -> detokenizer_pb2.Register:
    """The registration of a request, with all that a detokenizer needs to go on with it.

    Wherever rows of it may have come before, the output delivered so far is named, even if there is
    none: the detokenizer then asks for the rows after it.
    """
    register = detokenizer_pb2.Register(
        handle=live.handle,
        attempt=live.attempt,
        request_id=live.request_id,
        prompt_tail=live.prompt.tail(TAIL_IDS),
        candidates=live.plan.candidates,
        stop=live.plan.stop,
        output=live.plan.output,
    )
    register.output.prompt_logprobs = live.awaits_prompt
    if live.resumed:
        for index, candidate in enumerate(live.candidates):
            register.delivered.add(
                candidate=index,
                ids=candidate.ids.tobytes(),
                text_length=candidate.text_length,
                finished=candidate.finished,
            )
    return register
