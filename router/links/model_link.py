"""The router's side of one model's Run stream: submits down, load up.

The stream is a lease: the model drops what was submitted through it when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from grpc import aio

from chassis.links.reconnecting_stream import Ending, ReconnectingStream
from chassis.serving.introspection import medium
from protos import model_pb2, model_pb2_grpc
from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.admission.pace import Pace
from router.links.events import ModelEvent, ModelLoad, ModelLost, ModelReady, SubmitRefused
from router.links.messages import model_info, submission
from router.links.peer_errors import from_refusal
from router.requests.prompt_arena import PromptArena
from router.requests.request import RouterRequest
from router.requests.results import ModelInfo

log = logging.getLogger(__name__)


class ModelLink:
    """The Run stream of a model, and the commitments of the model.

    Attributes:
        info: the model, as it was last seen; None: it was never seen.
        kv_slots: tokens that its KV pool holds, as it was last seen.
        load: its last report; empty while the stream is down.
        pace: its speed, kept while the stream is down.
        ledger: its commitments; None while the stream is down.
    """

    def __init__(
        self,
        channel: aio.Channel,
        arena: PromptArena,
        router_id: Callable[[], int],
        emit: Callable[[ModelEvent], None],
    ) -> None:
        """Prepare the link.

        Args:
            channel: to the model.
            arena: holds the prompts.
            router_id: the number to say hello with, asked for each stream.
            emit: takes the events.
        """
        stub = model_pb2_grpc.ModelServiceStub(channel)
        self._arena = arena
        self._router_id = router_id
        self._emit = emit
        self._offered = ""
        self._proven: set[str] = set()
        self.info: ModelInfo | None = None
        self.kv_slots = 0
        self.load = model_pb2.Load()
        self.pace = Pace()
        self.ledger: Ledger | None = None
        self._stream: ReconnectingStream[model_pb2.RunRequest, model_pb2.RunResponse] = (
            ReconnectingStream(
                lambda: stub.Run(wait_for_ready=True), self._hello, self._receive, self._lost
            )
        )
        self.run = self._stream.run
        self.restart = self._stream.restart

    @property
    def up(self) -> bool:
        """True while the stream is open and the model takes requests."""
        return self.ledger is not None

    @property
    def shares(self) -> bool:
        """True while prompts go through shared memory."""
        file = self._arena.file
        return file is not None and file.name in self._proven

    def submit(self, request: RouterRequest, ticket: Ticket) -> None:
        """Have the model run `request`, which is in the ledger under `ticket`."""
        submit = submission(request)
        span = request.prompt.span
        if span is not None and span.name in self._proven:
            submit.slab.CopyFrom(span)
        else:
            submit.ids = request.prompt.to_bytes()
        request.submits += 1
        if self.ledger is not None:
            self.ledger.submit(ticket)
        self._stream.send(model_pb2.RunRequest(submit=submit))

    def cancel(self, handle: int, candidate: int | None = None) -> None:
        """Have it stop one candidate, or all."""
        self._stream.send(
            model_pb2.RunRequest(cancel=model_pb2.Cancel(handle=handle, candidate=candidate))
        )

    def release(self, handle: int) -> None:
        """Have it forget a request."""
        self._stream.send(model_pb2.RunRequest(release=model_pb2.Release(handle=handle)))

    def offer_arena(self) -> None:
        """Show it the arena's file, where it has not been shown it."""
        described = self._arena.describe()
        if self.up and described.name not in ("", self._offered):
            self._offered = described.name
            self._stream.send(model_pb2.RunRequest(arena=described))

    def _hello(self) -> model_pb2.RunRequest:
        hello = model_pb2.Hello(router=self._router_id(), arena=self._arena.describe())
        self._offered = hello.arena.name
        return model_pb2.RunRequest(hello=hello)

    def _receive(self, response: model_pb2.RunResponse) -> None:
        match response.WhichOneof("message"):
            case "load":
                self._report(response.load)
            case "refusal":
                refusal = response.refusal
                error = from_refusal(refusal)
                self._emit(SubmitRefused(refusal.handle, refusal.attempt, error))
            case "welcome":
                self._welcomed(response.welcome)
            case "arena":
                if self._arena.proven_by(response.arena.name, response.arena.proof):
                    self._proven.add(response.arena.name)

    def _welcomed(self, welcome: model_pb2.Welcome) -> None:
        file = self._arena.file
        if file is not None and file.proven_by(welcome.proof):
            self._proven.add(file.name)
        self.info = model_info(welcome.model)
        self.kv_slots = welcome.kv_slots
        self.ledger = Ledger(welcome.kv_slots, welcome.max_sequences, self.pace)
        log.info("model connected (%s)", medium(self.shares), extra={"model": welcome.model.name})
        self.offer_arena()  # it may have been renewed since Hello
        self._emit(ModelReady(welcome.incarnation))

    def _report(self, load: model_pb2.Load) -> None:
        self.load = load
        if self.ledger is not None:
            self.ledger.report(load.submits_seen, load.kv_slots_used, load.running + load.waiting)
        self._emit(ModelLoad())

    def _lost(self, ending: Ending) -> None:
        if self.ledger is not None and not ending.closed_here:
            cause = {"code": ending.code.name, "cause": ending.details}
            log.warning("connection to the model lost", extra=cause)
        was_up, self.ledger = self.up, None
        self.load = model_pb2.Load()
        self._proven.clear()
        self._emit(ModelLost(ending, was_up))
