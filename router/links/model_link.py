"""The router's side of one model's Run stream: submits down, load up.

The stream is a lease: what was submitted through it is gone when it ends.
"""

from __future__ import annotations

import logging
from typing import Protocol

from grpc import aio

from chassis.serving.introspection import medium
from protos import generation_pb2, model_pb2, model_pb2_grpc
from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.admission.pace import Pace
from router.links.connection import Conversation, Ending
from router.requests.prompt_arena import PromptArena
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)


class ModelLinkOwner(Protocol):
    """Who is told what comes from the model."""

    @property
    def router_id(self) -> int:
        """The number to say hello with."""

    def welcomed(self) -> None:
        """The model has said what it is, and takes requests."""

    def changed(self) -> None:
        """Its load has changed."""

    def refused(self, refusal: model_pb2.Refusal) -> None:
        """It will not run a request."""

    def run_ended(self, ending: Ending, *, was_up: bool) -> None:
        """The stream has ended, or was refused."""


class ModelLink:
    """A model and what it is committed to."""

    def __init__(self, channel: aio.Channel, arena: PromptArena, owner: ModelLinkOwner) -> None:
        """Prepare the link to the model behind `channel`; prompts are in `arena`."""
        stub = model_pb2_grpc.ModelServiceStub(channel)
        self._arena = arena
        self._owner = owner
        self._offered = ""
        self._proven: set[str] = set()
        self.welcome: model_pb2.Welcome | None = None
        self.load = model_pb2.Load()
        self.pace = Pace()
        self.ledger: Ledger | None = None
        self._stream: Conversation[model_pb2.RunRequest, model_pb2.RunResponse] = Conversation(
            lambda: stub.Run(wait_for_ready=True), self._hello, self._receive, self._lost
        )
        self.keep = self._stream.keep
        self.again = self._stream.again

    @property
    def up(self) -> bool:
        """Whether the model has welcomed this router."""
        return self.ledger is not None

    @property
    def shares(self) -> bool:
        """Whether prompts go through shared memory."""
        file = self._arena.file
        return file is not None and file.name in self._proven

    @property
    def model(self) -> generation_pb2.Model | None:
        """What it runs, or ran when it was last seen."""
        return self.welcome.model if self.welcome else None

    def submit(self, live: RouterRequest, ticket: Ticket) -> None:
        """Have the model run `live`, which is in the ledger under `ticket`."""
        submit = submission(live)
        span = live.prompt.span
        if span is not None and span.name in self._proven:
            submit.slab.CopyFrom(span)
        else:
            submit.ids = live.prompt.to_bytes()
        live.submits += 1
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
        hello = model_pb2.Hello(router=self._owner.router_id, arena=self._arena.describe())
        self._offered = hello.arena.name
        return model_pb2.RunRequest(hello=hello)

    def _receive(self, response: model_pb2.RunResponse) -> None:
        match response.WhichOneof("message"):
            case "load":
                self._report(response.load)
            case "refusal":
                self._owner.refused(response.refusal)
            case "welcome":
                self._welcomed(response.welcome)
            case "arena":
                if self._arena.proven_by(response.arena.name, response.arena.proof):
                    self._proven.add(response.arena.name)

    def _welcomed(self, welcome: model_pb2.Welcome) -> None:
        file = self._arena.file
        if file is not None and file.proven_by(welcome.proof):
            self._proven.add(file.name)
        self.welcome = welcome
        self.ledger = Ledger(welcome.kv_slots, welcome.max_sequences, self.pace)
        told = {"model": welcome.model.name}
        log.info("model connected (%s)", medium(self.shares), extra=told)
        self.offer_arena()  # it may have been renewed since Hello
        self._owner.welcomed()

    def _report(self, load: model_pb2.Load) -> None:
        self.load = load
        if self.ledger is not None:
            self.ledger.report(load.submits_seen, load.kv_slots_used, load.running + load.waiting)
        self._owner.changed()

    def _lost(self, ending: Ending) -> None:
        if self.ledger is not None and not ending.closed_here:
            cause = {"code": ending.code.name, "cause": ending.details}
            log.warning("connection to the model lost", extra=cause)
        was_up, self.ledger = self.up, None
        self.load = model_pb2.Load()
        self._proven.clear()
        self._owner.run_ended(ending, was_up=was_up)


def submission(live: RouterRequest) -> model_pb2.Submit:
    """What a model is told of `live`, but for its prompt: all that it takes to go on."""
    submit = model_pb2.Submit(
        handle=live.handle,
        attempt=live.attempt,
        request_id=live.request_id,
        sampling=live.plan.sampling,
        stop=live.plan.stop,
        prompt_logprobs=live.awaits_prompt,
        priority=live.plan.priority,
        bad_words=live.prompt.bad_words,
    )
    if live.plan.output.HasField("logprobs"):
        submit.logprobs = live.plan.output.logprobs
    if live.all_ended:  # only scores of the prompt are still missing
        submit.sampling.n = 1
        submit.stop.max_tokens = 0
    elif live.resumed:
        for index, candidate in enumerate(live.candidates):
            submit.progress.add(
                candidate=index, ids=candidate.ids.tobytes(), finished=candidate.finished
            )
    return submit
