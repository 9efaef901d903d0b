"""The router's side of one replica: a model and the detokenizer that reads it.

A request is known to both or to neither: it is registered before it is submitted, and forgotten by
both when it ends. A model that is lost has dropped what it ran, which then starts again elsewhere;
a detokenizer that is lost is told again of what the model still runs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from grpc import aio

from chassis.errors import RequestFailed, ServiceError, Unavailable
from protos import detokenizer_pb2, detokenizer_pb2_grpc, generation_pb2, model_pb2
from router.admission.demand import Ticket
from router.admission.quarantine import EngineCrashes
from router.links.connection import Ending
from router.links.detokenizer_link import DetokenizerLink
from router.links.model_link import ModelLink
from router.links.peer_errors import ReplicaLost, from_refusal
from router.metrics import RecoveryMetrics
from router.placement.attempt import Attempt, Placement
from router.placement.detokenizer_timeout import DetokenizerTimeout
from router.requests.prompt_arena import PromptArena
from router.requests.request import RouterRequest
from router.settings import RecoveryTimeouts, ReplicaAddress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Channels:
    """To a replica's services."""

    model: aio.Channel
    detokenizer: aio.Channel


class ReplicaOwner(Protocol):
    """Who is told that a replica has changed."""

    def welcomed(self) -> None:
        """Its model has said what it is."""

    def changed(self) -> None:
        """Its readiness or room has changed."""

    def serves_beside(self, replica: Replica) -> bool:
        """Whether another replica takes requests."""


class Replica:
    """Both links of a replica, and the requests that run on it."""

    def __init__(
        self,
        address: ReplicaAddress,
        channels: Channels,
        arena: PromptArena,
        owner: ReplicaOwner,
        metrics: RecoveryMetrics,
        patience: RecoveryTimeouts,
    ) -> None:
        """Prepare the links.

        Args:
            address: where its services are.
            channels: to them.
            arena: where prompts are.
            owner: told of changes.
            metrics: counts.
            patience: how long to wait for what is away.
        """
        self.address = address
        self.router_id = secrets.randbits(32)
        self._owner = owner
        self._metrics = metrics
        self._attempts: dict[int, Attempt] = {}  # by handle
        self._steps = itertools.count()
        self._absence = DetokenizerTimeout(self, patience)
        self._crashes = EngineCrashes()
        self._model_back = asyncio.Event()
        self._recovery_s = patience.recovery_s
        self.detokenizer = detokenizer_pb2_grpc.DetokenizerServiceStub(channels.detokenizer)
        self.run = ModelLink(channels.model, arena, self)
        self.watch = DetokenizerLink(channels.detokenizer, self)

    async def keep(self) -> None:
        """Keep both links up until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.run.keep())
            group.create_task(self.watch.keep())

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.run.up and self.watch.up and self.watch.upstream.linked

    @property
    def running(self) -> int:
        """Requests of this router that run on it."""
        return len(self._attempts)

    async def carry(self, live: RouterRequest, placement: Placement) -> None:
        """Have `live` run until it has ended; whatever ends this, both services forget it.

        Raises:
            ReplicaLost: the replica was lost before that.
        """
        if not self._holds(placement):
            raise ReplicaLost
        live.handle = self.router_id << 32 | live.number
        attempt = Attempt(live, placement)
        self._attempts[live.handle] = attempt
        try:
            self.watch.register(live)
            await attempt.registered
            if not (attempt.over.done() or self._holds(placement)):
                raise ReplicaLost
            if not attempt.over.done():
                self._submit(attempt)
            if not await attempt.over:
                raise ReplicaLost
        finally:
            self._end(attempt)

    async def check(self, live: RouterRequest) -> None:
        """Let `live` run again unless engine crashes are blamed on it.

        Where that depends on whether the model has crashed, wait for it to come back.

        Raises:
            RequestFailed: they are; the requests that ran beside it are cleared.
        """
        record = live.crash_record
        if not record.blamable:
            return
        try:
            async with asyncio.timeout(self._recovery_s):
                await self._model_back.wait()
        except TimeoutError:
            self._crashes.stays_away()
            record.blame()
        if record.blamed_for:
            log.error(
                "refused: it was running in too many engine crashes",
                extra={"handle": f"{live.handle:#018x}", "crashes": record.blamed_for},
            )
            raise RequestFailed(
                "IMPLICATED_IN_CRASHES",
                f"the engine has crashed {record.blamed_for} times while this request was running",
            )

    def _submit(self, attempt: Attempt) -> None:
        if attempt.live.resumed:
            self._metrics.resubmissions.inc()
        self.run.submit(attempt.live, attempt.placement.ticket)
        attempt.submitted = True

    def _end(self, attempt: Attempt) -> None:
        """Have both services forget an attempt and free its place; nothing where that was done."""
        live = attempt.live
        if self._attempts.get(live.handle) is not attempt:
            return
        del self._attempts[live.handle]
        if attempt.submitted:
            if not live.finished:
                self.run.cancel(live.handle)
            self.run.release(live.handle)
        self.watch.forget(live.handle)
        attempt.placement.free()

    def _holds(self, placement: Placement) -> bool:
        """Whether the links are still those that `placement` was granted on."""
        return self.watch.up and self.run.ledger is placement.ledger

    def registered(self, handle: int, attempt: int) -> None:
        """Let the request be submitted."""
        known = self._attempts.get(handle)
        if known is not None and known.live.attempt == attempt:
            known.expect()

    def text(self, frame: detokenizer_pb2.TextFrame) -> None:
        """Hand a step's deltas to their requests."""
        step = next(self._steps)
        for delta in frame.deltas:
            attempt = self._attempts.get(delta.handle)
            if attempt is None or attempt.live.attempt != delta.attempt:
                self._metrics.fenced_deltas.inc()
                continue
            taken = attempt.live.take(delta, step)
            if taken:
                self._account(attempt, delta)
            if attempt.live.finished:
                attempt.end(finished=True)
                self._end(attempt)
        ledger = self.run.ledger
        if ledger is not None and ledger.frame(asyncio.get_running_loop().time()):
            self._owner.changed()

    def _account(self, attempt: Attempt, delta: detokenizer_pb2.TextDelta) -> None:
        """Follow a delta in the ledger."""
        ended = bool(delta.finish_reason)
        room = attempt.account(delta.candidate, len(delta.token_ids), ended=ended)
        if attempt.live.finished:
            return
        if delta.HasField("matched_stop"):
            # The model knows nothing of stop strings.
            self.run.cancel(attempt.live.handle, delta.candidate)
        if room:
            self.changed()

    def refused(self, refusal: model_pb2.Refusal) -> None:
        """Fail the request."""
        attempt = self._attempts.get(refusal.handle)
        if attempt is not None and attempt.live.attempt == refusal.attempt:
            attempt.live.fail(from_refusal(refusal, attempt.live.plan.prompt_field))

    def welcomed(self) -> None:
        """The model is there; what a crash was laid to stands or falls with which one it is."""
        assert self.run.welcome is not None
        self._metrics.crash_implications.inc(self._crashes.back(self.run.welcome.incarnation))
        self._model_back.set()
        self._owner.welcomed()
        self.changed()

    def watch_began(self) -> None:
        """Register again what the model still runs."""
        for attempt in self._attempts.values():
            self.watch.register(attempt.live)
            self._metrics.reregistrations.inc()
        self.changed()

    def run_ended(self, ending: Ending, *, was_up: bool) -> None:
        """Let go of what the model ran."""
        if was_up and not ending.orderly:
            submitted = [a for a in self._attempts.values() if a.submitted]
            suspects = (a.live.crash_record for a in submitted if a.isolated)
            self._model_back.clear()
            self._crashes.lost((a.live.crash_record for a in submitted), next(suspects, None))
        self._renumber(ending, self.watch.again)
        self._lose(list(self._attempts.values()))
        self.changed()

    def watch_ended(self, ending: Ending) -> None:
        """Let go of what was not submitted yet; the rest waits for the detokenizer."""
        self._renumber(ending, self.run.again)
        self._lose([a for a in self._attempts.values() if not a.submitted])
        self.changed()

    def _renumber(self, ending: Ending, restart_other: Callable[[], None]) -> None:
        """Where another router has our number, draw another."""
        if ending.code is grpc.StatusCode.ALREADY_EXISTS:
            self.router_id = secrets.randbits(32)
            restart_other()

    def _lose(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            attempt.end(finished=False)
            self._end(attempt)

    def changed(self) -> None:
        """Its readiness or room has changed; what the model runs alone does not wait for ever."""
        if self.ready or not self._attempts:
            self._absence.end()
        else:
            self._absence.begin()
        self._owner.changed()

    def fail(self, ticket: Ticket, error: ServiceError) -> None:
        """End a request with `error`."""
        for attempt in self._attempts.values():
            if attempt.placement.ticket is ticket:
                attempt.live.fail(error)

    def move(self) -> None:
        """Have what has waited too long for the detokenizer start again, where there is another."""
        if self._absence.long and self._owner.serves_beside(self):
            log.warning(
                "requests are moved to another replica", extra={"requests": len(self._attempts)}
            )
            self._lose(list(self._attempts.values()))

    def give_up(self) -> None:
        """Fail what has waited for the detokenizer as long as anything waits."""
        for attempt in self._attempts.values():
            attempt.live.fail(Unavailable("the detokenizer is away"))

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
