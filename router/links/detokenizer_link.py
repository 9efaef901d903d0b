"""The router's side of one detokenizer's Watch stream: registrations down, text up.

The stream is a lease: what was registered through it is gone when it ends.
"""

from __future__ import annotations

import logging
from typing import Protocol

from grpc import aio

from protos import detokenizer_pb2, detokenizer_pb2_grpc
from router.links.connection import Conversation, Ending
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)

TAIL_IDS = 16  # the detokenizer needs enough of the prompt to spell the first output token


class DetokenizerLinkOwner(Protocol):
    """Who is told what comes from the detokenizer."""

    @property
    def router_id(self) -> int:
        """The number to listen with."""

    def changed(self) -> None:
        """The link, or the detokenizer's own to the model, came up or went down."""

    def registered(self, handle: int, attempt: int) -> None:
        """A registration holds."""

    def text(self, frame: detokenizer_pb2.TextFrame) -> None:
        """A step has given text."""

    def watch_began(self) -> None:
        """The detokenizer takes registrations, and knows of none."""

    def watch_ended(self, ending: Ending) -> None:
        """The stream has ended, or was refused."""


class DetokenizerLink:
    """A detokenizer, as far as text comes from it."""

    def __init__(self, channel: aio.Channel, owner: DetokenizerLinkOwner) -> None:
        """Prepare the link to the detokenizer behind `channel`."""
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        self._owner = owner
        self.up = False
        self.upstream = detokenizer_pb2.Upstream()
        self._stream: Conversation[detokenizer_pb2.WatchRequest, detokenizer_pb2.WatchResponse] = (
            Conversation(
                lambda: stub.Watch(wait_for_ready=True), self._listen, self._receive, self._lost
            )
        )
        self.keep = self._stream.keep
        self.again = self._stream.again

    def register(self, live: RouterRequest) -> None:
        """Have it turn the tokens of `live` into text."""
        self._stream.send(detokenizer_pb2.WatchRequest(register=registration(live)))

    def forget(self, handle: int) -> None:
        """Have it forget a request."""
        self._stream.send(
            detokenizer_pb2.WatchRequest(forget=detokenizer_pb2.Forget(handle=handle))
        )

    def _listen(self) -> detokenizer_pb2.WatchRequest:
        return detokenizer_pb2.WatchRequest(
            listen=detokenizer_pb2.Listen(router=self._owner.router_id)
        )

    def _receive(self, response: detokenizer_pb2.WatchResponse) -> None:
        match response.WhichOneof("message"):
            case "text":
                self._owner.text(response.text)
            case "registered":
                self._owner.registered(response.registered.handle, response.registered.attempt)
            case "listening":
                self.up = True
                log.info("detokenizer connected")
                self._owner.watch_began()
            case "upstream":
                self.upstream = response.upstream
                self._owner.changed()

    def _lost(self, ending: Ending) -> None:
        if self.up and not ending.closed_here:
            cause = {"code": ending.code.name, "cause": ending.details}
            log.warning("connection to the detokenizer lost", extra=cause)
        self.up = False
        self.upstream = detokenizer_pb2.Upstream()
        self._owner.watch_ended(ending)


def registration(live: RouterRequest) -> detokenizer_pb2.Register:
    """What a detokenizer is told of `live`: all that it takes to go on.

    What was delivered is told, be it nothing, wherever rows may already have come of it: by that
    the detokenizer knows that it has to ask for them.
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
