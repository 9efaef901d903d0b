"""The router's side of one replica: a model and the detokenizer that reads it.

A request is known to both or to neither: it is registered before it is submitted, and forgotten by
both when it ends. When either link is lost, what ran over it has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

import grpc

from chassis.channels import open_channel
from chassis.errors import Unavailable
from protos import detokenizer_pb2, detokenizer_pb2_grpc, generation_pb2, model_pb2
from router.admission import Ledger, Ticket
from router.live_request import LiveRequest
from router.peer_errors import ReplicaLost, from_refusal
from router.prompt_arena import PromptArena
from router.run_link import RunLink
from router.settings import ReplicaAddress
from router.watch_link import WatchLink


class Placement:
    """One request's place on a replica, freed once."""

    def __init__(self, replica: Replica, ledger: Ledger, ticket: Ticket) -> None:
        self.replica = replica
        self.ticket = ticket
        self.ledger = ledger

    def free(self) -> None:
        """Give the place back; nothing where that was done already."""
        self.ledger.leave(self.ticket)
        self.replica.changed()


class ReplicaOwner(Protocol):
    """Who is told that a replica has changed."""

    def welcomed(self) -> None:
        """Its model has said what it is."""

    def changed(self) -> None:
        """Its readiness or room has changed."""


class Replica:
    """Both links of a replica, and the requests that run on it."""

    def __init__(
        self,
        address: ReplicaAddress,
        arena: PromptArena,
        counter: Iterator[int],
        owner: ReplicaOwner,
        *,
        max_message_mib: int,
    ) -> None:
        """Prepare the links.

        Args:
            address: where its services are.
            arena: where prompts are.
            counter: lower halves of handles, never the same twice.
            owner: told of changes.
            max_message_mib: largest message, in MiB.
        """
        self.address = address
        self.welcomed = owner.welcomed
        self.changed = owner.changed
        self.router_id = secrets.randbits(32)
        self._counter = counter
        self._live: dict[int, tuple[LiveRequest, Placement]] = {}
        self._steps = itertools.count()
        self._model_channel = open_channel(address.model, max_message_mib=max_message_mib)
        self._channel = open_channel(address.detokenizer, max_message_mib=max_message_mib)
        self.detokenizer = detokenizer_pb2_grpc.DetokenizerServiceStub(self._channel)
        self.run = RunLink(self._model_channel, arena, self)
        self.watch = WatchLink(self._channel, self)

    async def keep(self) -> None:
        """Keep both links up until cancelled."""
        async with self._model_channel, self._channel, asyncio.TaskGroup() as group:
            group.create_task(self.run.keep())
            group.create_task(self.watch.keep())

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.run.up and self.watch.up and self.watch.upstream.linked

    @property
    def running(self) -> int:
        """Requests of this router that run on it."""
        return len(self._live)

    async def start(self, live: LiveRequest, placement: Placement) -> None:
        """Register `live`, and submit it once that holds; `end` undoes both.

        Raises:
            ReplicaLost: a link went down before it was submitted.
        """
        if not self._holds(placement):
            raise ReplicaLost
        live.place(self.router_id << 32 | next(self._counter))
        self._live[live.handle] = (live, placement)
        self.watch.register(live)
        await live.registered
        if not self._holds(placement):
            raise ReplicaLost
        self.run.submit(live, placement.ticket)

    def end(self, live: LiveRequest) -> None:
        """Have both services forget `live` and free its place; nothing where that was done."""
        entry = self._live.pop(live.handle, None)
        if entry is None:
            return
        if live.submitted:
            if not live.finished:
                self.run.cancel(live.handle)
            self.run.release(live.handle)
        self.watch.forget(live.handle)
        entry[1].free()

    def _holds(self, placement: Placement) -> bool:
        """Whether the links are still those that `placement` was granted on."""
        return self.watch.up and self.run.ledger is placement.ledger

    def registered(self, handle: int, attempt: int) -> None:
        """Let the request be submitted."""
        live, _ = self._live.get(handle, (None, None))
        if live is not None and live.attempt == attempt and not live.registered.done():
            live.registered.set_result(None)

    def text(self, frame: detokenizer_pb2.TextFrame) -> None:
        """Hand a step's deltas to their requests."""
        step = next(self._steps)
        for delta in frame.deltas:
            entry = self._live.get(delta.handle)
            if entry is None:
                continue
            live, placement = entry
            if live.take(delta, step):
                self._account(live, placement, delta)
            elif live.finished:  # what was still missing is the end of the prompt
                self.end(live)

    def _account(
        self, live: LiveRequest, placement: Placement, delta: detokenizer_pb2.TextDelta
    ) -> None:
        """Follow a delta in the ledger, and end what it ended."""
        ticket, candidate = placement.ticket, delta.candidate
        if delta.token_ids:
            placement.ledger.grow(ticket, candidate, len(delta.token_ids))
        if not delta.finish_reason:
            return
        placement.ledger.finish(ticket, candidate)
        if live.finished:
            self.end(live)
            return
        if delta.HasField("matched_stop"):
            self.run.cancel(live.handle, candidate)  # the model knows nothing of stop strings
        self.changed()

    def refused(self, refusal: model_pb2.Refusal) -> None:
        """Fail the request."""
        live, _ = self._live.get(refusal.handle, (None, None))
        if live is not None and live.attempt == refusal.attempt:
            live.fail(from_refusal(refusal.code, refusal.message))

    def run_ended(self, code: grpc.StatusCode) -> None:
        """Fail what the model ran."""
        self._link_ended(code, self.watch.again)

    def watch_ended(self, code: grpc.StatusCode) -> None:
        """Fail what the detokenizer turned into text."""
        self._link_ended(code, self.run.again)

    def _link_ended(self, code: grpc.StatusCode, restart_other: Callable[[], None]) -> None:
        """Fail what ran over the link; where another router has our number, draw another."""
        if code is grpc.StatusCode.ALREADY_EXISTS:
            self.router_id = secrets.randbits(32)
            restart_other()
        for live, placement in list(self._live.values()):
            self._lose(live, placement)
        self.changed()

    def _lose(self, live: LiveRequest, placement: Placement) -> None:
        """End a request whose link is gone: one not submitted starts again, any other fails."""
        if not live.submitted:
            if not live.registered.done():
                live.registered.set_exception(ReplicaLost())
            return
        live.fail(Unavailable("the replica that ran this request was lost"))
        self.end(live)

    def describe(self) -> generation_pb2.Replica:
        """Its load, as clients are told it."""
        welcome, load = self.run.welcome, self.run.load
        return generation_pb2.Replica(
            address=self.address.model,
            ready=self.ready,
            running=self.running,
            kv_slots_used=load.kv_slots_used,
            kv_slots_total=welcome.kv_slots if welcome else 0,
            kv_slots_cached=load.kv_slots_cached,
        )
