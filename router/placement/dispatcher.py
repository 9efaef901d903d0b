"""Dispatch of waiting requests to replicas: the event loop's side of the admission queue.

The queue's rules grant a request its place. A request gives its place in line up when it stops
waiting, and fails with UNAVAILABLE once no replica has been there for the recovery limit. Replicas
notify the dispatcher through `update`; what it then asks of them does not notify it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chassis.errors import DeadlineUnmeetable, Overloaded, Unavailable
from chassis.policies.policy import Policy
from chassis.policies.registry import DEFAULT_POLICY, POLICIES
from router.admission.deadlines import Deadlines
from router.admission.demand import Demand, Ticket
from router.admission.forecast import Late
from router.admission.ledger import Ledger
from router.admission.queue import AdmissionQueue, QueueFull
from router.placement.attempt import release_place
from router.placement.model_limits import AWAY, ModelLimits
from router.placement.replica import Change, Replica
from router.requests.request import RouterRequest
from router.requests.results import ModelInfo

log = logging.getLogger(__name__)

_RETRY_LEAST_S, _RETRY_MOST_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Placement:
    """A place in the ledger of a replica; `Replica.run` releases it."""

    replica: Replica
    ledger: Ledger
    ticket: Ticket

    async def run(self, request: RouterRequest) -> None:
        """Run `request` there until it ends.

        Raises:
            ReplicaLost: the replica was lost before the end.
        """
        await self.replica.run(request, self.ledger, self.ticket)


@dataclass(frozen=True, slots=True)
class _Waiter:
    """A request in line: its demand, its grant, its time limit while no replica is there."""

    ask: Callable[[], Demand]
    grant: asyncio.Future[Placement]
    patience: asyncio.Timeout


class Dispatcher:
    """The admission queue over the replicas of one model."""

    def __init__(
        self,
        max_queue: int,
        recovery_s: float,
        ready_changed: Callable[[], None],
        policy: Policy = POLICIES[DEFAULT_POLICY],
    ) -> None:
        """Begin with no replica.

        Args:
            max_queue: requests that may wait.
            recovery_s: seconds that a request waits while no replica is there.
            ready_changed: called when a replica comes up or goes down.
            policy: orders the waiting requests.
        """
        self.replicas: Sequence[Replica] = ()
        self._queue = AdmissionQueue(max_queue, policy)
        self._recovery_s = recovery_s
        self._ready_changed = ready_changed
        self._waiters: dict[Ticket, _Waiter] = {}
        self._change = asyncio.Event()  # set for a moment at each change of a replica
        self._serving: list[bool] = []
        self._model = ModelLimits(recovery_s)
        self.limits = self._model.wait
        self._hurried = 0  # waiters that have a deadline
        self._deadlines: Deadlines[Replica] = Deadlines()
        self._look_again: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Requests that wait, for the tokenizer or for a place."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that have a place and have not ended."""
        return sum(replica.running for replica in self.replicas)

    @property
    def rate(self) -> float:
        """Highest measured rate of the replicas, in tokens a second."""
        return sum(replica.model.pace.rate for replica in self.replicas if self.serves(replica))

    @property
    def ready(self) -> bool:
        """True while a replica takes requests."""
        return any(self.serves(replica) for replica in self.replicas)

    def serves(self, replica: Replica) -> bool:
        """Tell whether `replica` takes requests for this deployment's model."""
        return replica.ready and self._model.fits(replica.model.info)

    @property
    def prompt_ids(self) -> int:
        """Ids that a prompt may have; 0: no replica has described its model."""
        return self._model.known.most_tokens if self._model.known else 0

    def model(self) -> ModelInfo | None:
        """The deployment's model, once a replica has described it."""
        return next((r.model.info for r in self.replicas if self._model.fits(r.model.info)), None)

    async def any_replica(self) -> Replica:
        """Any replica with a detokenizer, once there is one."""
        while True:
            for replica in sorted(self.replicas, key=self.serves, reverse=True):
                if replica.detokenizer.up:
                    return replica
            await self._change.wait()

    @contextmanager
    def arrival(self, priority: int, deadline: float | None = None) -> Iterator[Ticket]:
        """Take a ticket for the block.

        Args:
            priority: lower goes first.
            deadline: time by which the answer must have ended, by the loop's clock; None: any.

        Raises:
            Overloaded: the queue is full.
        """
        try:
            ticket = self._queue.arrive(priority, deadline)
        except QueueFull as error:
            raise Overloaded(str(error)) from error
        try:
            yield ticket
        finally:
            self._queue.leave(ticket)

    def expect(self, ticket: Ticket, demand: Demand) -> None:
        """Refuse a request that needs `demand` at least, if it cannot end in time.

        Raises:
            DeadlineUnmeetable: it would not end in time.
        """
        late = self._deadlines.refuses(ticket, demand, asyncio.get_running_loop().time())
        if late is not None:
            raise _unmeetable(late)

    async def place(self, ticket: Ticket, ask: Callable[[], Demand]) -> Placement:
        """Wait in line for a place for the demand that `ask` returns.

        Raises:
            DeadlineUnmeetable: it would not end in time.
            Unavailable: no replica has been there for the recovery limit.
        """
        self._queue.line_up(ticket, ask())
        grant: asyncio.Future[Placement] = asyncio.get_running_loop().create_future()
        taken = False
        try:
            async with asyncio.timeout(None) as patience:
                self._waiters[ticket] = _Waiter(ask, grant, patience)
                self._hurried += ticket.deadline is not None
                self._set_patience(patience)
                self._admit()
                placement = await grant
                taken = True
                return placement
        except TimeoutError:
            raise Unavailable(AWAY) from None
        finally:
            if self._waiters.pop(ticket, None) is not None:
                self._hurried -= ticket.deadline is not None
            if not taken:
                self._give_up(ticket, grant)

    def update(self, change: Change = Change.ROOM) -> None:
        """Act on a change of a replica: move stranded requests, admit waiting ones."""
        if change is Change.MODEL:
            self._model.learn([replica.model for replica in self.replicas])
            self._refresh_demands()
        self._change.set()
        self._change.clear()
        serving = [self.serves(replica) for replica in self.replicas]
        if serving != self._serving:
            self._serving = serving
            for waiter in self._waiters.values():
                self._set_patience(waiter.patience)
            self._ready_changed()
        for replica in self.replicas:
            if replica.stranded and self._serves_beside(replica):
                replica.move()
        ledgers = (replica.model.ledger for replica in self.replicas)
        if self._waiters or any(ledger is not None and ledger.hurried for ledger in ledgers):
            self._admit()

    def ask_again(self) -> None:
        """Ask waiting requests for their demands again, and admit."""
        self._refresh_demands()
        self._admit()

    def _serves_beside(self, replica: Replica) -> bool:
        """Tell whether another replica takes requests."""
        return any(self.serves(other) for other in self.replicas if other is not replica)

    def _refresh_demands(self) -> None:
        for ticket, waiter in self._waiters.items():
            ticket.demand = waiter.ask()

    def _give_up(self, ticket: Ticket, grant: asyncio.Future[Placement]) -> None:
        self._queue.leave(ticket)
        if not grant.done() or grant.cancelled():
            self._admit()  # the head may have been this one
        elif grant.exception() is None:
            placement = grant.result()  # it came while the request was being cancelled
            release_place(placement.ledger, ticket)
            self.update()

    def _admit(self) -> None:
        ledgers = {
            replica: replica.model.ledger
            for replica in self.replicas
            if replica.model.ledger is not None and self.serves(replica)
        }
        loop = asyncio.get_running_loop()
        now, deadlines = loop.time(), self._deadlines
        hurried = self._hurried > 0 or any(ledger.hurried for ledger in ledgers.values())
        if hurried and now >= deadlines.due_at:
            self._look(ledgers, now)
        elif hurried and self._look_again is None:
            self._look_again = loop.call_at(deadlines.due_at, self._look_is_due)

        def allows(ticket: Ticket, replica: Replica) -> bool:
            return deadlines.allows(ticket, replica, ledgers[replica], now)

        for ticket, replica in self._queue.admit(ledgers, allows if hurried else None):
            if hurried:
                deadlines.start(ticket, replica)
            grant = self._waiters[ticket].grant
            if grant.done():  # cancelled, and not yet out of the line
                ledgers[replica].leave(ticket)
            else:
                grant.set_result(Placement(replica, ledgers[replica], ticket))

    def _look(self, ledgers: Mapping[Replica, Ledger], now: float) -> None:
        """Refuse, or end, the requests that will miss their deadlines."""
        refused, ended = self._deadlines.look(ledgers, self._queue.line(), now)
        for late in refused:
            self._queue.leave(late.ticket)
            grant = self._waiters[late.ticket].grant
            if not grant.done():
                grant.set_exception(_unmeetable(late))
        for replica, late in ended:
            replica.fail(late.ticket, _unmeetable(late))

    def _look_is_due(self) -> None:
        self._look_again = None
        self.update()

    def _set_patience(self, patience: asyncio.Timeout) -> None:
        """Let a waiter's recovery limit run while no replica is there, and only then."""
        if patience.expired():
            return  # its waiter is on its way out
        if self.ready:
            patience.reschedule(None)
        elif patience.when() is None:
            patience.reschedule(asyncio.get_running_loop().time() + self._recovery_s)


def _unmeetable(late: Late) -> DeadlineUnmeetable:
    """The answer to a client whose deadline cannot be met."""
    wait_s = late.needed_s if late.wait_s is None else late.wait_s
    return DeadlineUnmeetable(
        f"the deadline cannot be met: {late.left_s:.1f} s are left, "
        f"about {late.needed_s:.1f} s are needed",
        retry_after_s=min(max(wait_s, _RETRY_LEAST_S), _RETRY_MOST_S),
    )
