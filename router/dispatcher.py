"""Brings waiting requests and replicas together: the queue's side of the event loop.

Whoever waits is granted a place by the queue's rules, gives its place up when it stops waiting, and
is told UNAVAILABLE once no replica has been there for the recovery limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chassis.errors import Overloaded, Unavailable
from protos import generation_pb2
from router.admission import AdmissionQueue, QueueFull, Ticket
from router.attempt import Placement
from router.demand import Demand
from router.replica import Replica
from router.validation import Limits

log = logging.getLogger(__name__)

_AWAY = "no replica is there"


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A request in line: what it is granted, and how long it waits while no replica is there."""

    ask: Callable[[], Demand]
    grant: asyncio.Future[Placement]
    patience: asyncio.Timeout


class Dispatcher:
    """The admission queue over the replicas of one model."""

    def __init__(
        self, max_queue: int, recovery_s: float, ready_changed: Callable[[], None]
    ) -> None:
        """Begin with no replica.

        Args:
            max_queue: requests that may wait.
            recovery_s: how long one waits while no replica is there, in seconds.
            ready_changed: called when a replica comes up or goes down.
        """
        self.replicas: Sequence[Replica] = ()
        self._queue = AdmissionQueue(max_queue)
        self._recovery_s = recovery_s
        self._ready_changed = ready_changed
        self._waiters: dict[Ticket, _Waiter] = {}
        self._known = asyncio.Event()  # a replica has said what its model is
        self._change = asyncio.Event()  # set for a moment at each change of a replica
        self._serving: list[bool] = []
        self._limits: Limits | None = None

    @property
    def queued(self) -> int:
        """Requests that wait, for the tokenizer or for a place."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that have a place and have not ended."""
        return sum(replica.running for replica in self.replicas)

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests."""
        return any(self.serves(replica) for replica in self.replicas)

    def serves(self, replica: Replica) -> bool:
        """Whether `replica` takes requests for this deployment's model."""
        model = replica.run.model
        known = self._limits.model if self._limits else None
        return replica.ready and model is not None and model.name == known

    def serves_beside(self, replica: Replica) -> bool:
        """Whether another replica takes requests."""
        return any(self.serves(other) for other in self.replicas if other is not replica)

    @property
    def prompt_ids(self) -> int:
        """Ids that a prompt may have; 0: no replica has told."""
        return self._limits.most_tokens if self._limits else 0

    async def limits(self) -> Limits:
        """What the model allows, once a replica has told it.

        Raises:
            Unavailable: none did within the recovery limit.
        """
        if self._limits is None:
            try:
                async with asyncio.timeout(self._recovery_s):
                    await self._known.wait()
            except TimeoutError:
                raise Unavailable(_AWAY) from None
        assert self._limits is not None
        return self._limits

    def model(self) -> generation_pb2.Model | None:
        """The deployment's model, once a replica has told it."""
        models = (replica.run.model for replica in self.replicas)
        known = self._limits.model if self._limits else None
        return next((model for model in models if model and model.name == known), None)

    async def any_replica(self) -> Replica:
        """A replica for what any can do, once there is one whose detokenizer is there."""
        while True:
            for replica in sorted(self.replicas, key=self.serves, reverse=True):
                if replica.watch.up:
                    return replica
            await self._change.wait()

    @contextmanager
    def arrival(self, priority: int) -> Iterator[Ticket]:
        """Take a ticket for the block.

        Raises:
            Overloaded: the queue is full.
        """
        try:
            ticket = self._queue.arrive(priority)
        except QueueFull as error:
            raise Overloaded(str(error)) from error
        try:
            yield ticket
        finally:
            self._queue.leave(ticket)

    async def place(self, ticket: Ticket, ask: Callable[[], Demand]) -> Placement:
        """Wait in line for a place for what `ask` answers; the caller frees it.

        Raises:
            Unavailable: no replica has been there for the recovery limit.
        """
        self._queue.line_up(ticket, ask())
        grant: asyncio.Future[Placement] = asyncio.get_running_loop().create_future()
        taken = False
        try:
            async with asyncio.timeout(None) as patience:
                self._waiters[ticket] = _Waiter(ask, grant, patience)
                self._set_patience(patience)
                self._admit()
                placement = await grant
                taken = True
                return placement
        except TimeoutError:
            raise Unavailable(_AWAY) from None
        finally:
            self._waiters.pop(ticket, None)
            if not taken:
                self._give_up(ticket, grant)

    def changed(self) -> None:
        """Take note that a replica's readiness or room may have changed."""
        self._change.set()
        self._change.clear()
        serving = [self.serves(replica) for replica in self.replicas]
        if serving != self._serving:
            self._serving = serving
            for waiter in self._waiters.values():
                self._set_patience(waiter.patience)
            self._ready_changed()
            for replica in self.replicas:
                replica.move()
        if self._waiters:
            self._admit()

    def ask_again(self) -> None:
        """Take note that what requests in line ask for may have changed."""
        for ticket, waiter in self._waiters.items():
            ticket.demand = waiter.ask()
        self._admit()

    def welcomed(self) -> None:
        """Take note of what a replica runs; the first names the deployment's model."""
        welcomes = [replica.run.welcome for replica in self.replicas if replica.run.welcome]
        name = self._limits.model if self._limits else welcomes[0].model.name
        fitting = [welcome for welcome in welcomes if welcome.model.name == name]
        if len(fitting) < len(welcomes):
            log.error("a replica runs another model and is left out", extra={"model": name})
        if fitting:
            self._limits = Limits(
                model=name,
                context_length=min(welcome.model.context_length for welcome in fitting),
                vocab_size=min(welcome.model.vocab_size for welcome in fitting),
                kv_slots=min(welcome.kv_slots for welcome in fitting),
                defaults=fitting[0].model.generation_defaults,
            )
            self._known.set()
        self.ask_again()
        self.changed()

    def _give_up(self, ticket: Ticket, grant: asyncio.Future[Placement]) -> None:
        self._queue.leave(ticket)
        if grant.done() and not grant.cancelled():
            grant.result().free()  # it came while the request was being cancelled
        else:
            self._admit()  # the head may have been this one

    def _admit(self) -> None:
        ledgers = {
            replica: replica.run.ledger
            for replica in self.replicas
            if replica.run.ledger is not None and self.serves(replica)
        }
        for ticket, replica in self._queue.admit(ledgers):
            grant = self._waiters[ticket].grant
            if grant.done():  # cancelled, and not yet out of the line
                ledgers[replica].leave(ticket)
            else:
                grant.set_result(Placement(replica, ledgers[replica], ticket))

    def _set_patience(self, patience: asyncio.Timeout) -> None:
        """Let a waiter's recovery limit run while no replica is there, and only then."""
        if patience.expired():
            return  # its waiter is on its way out
        if self.ready:
            patience.reschedule(None)
        elif patience.when() is None:
            patience.reschedule(asyncio.get_running_loop().time() + self._recovery_s)
