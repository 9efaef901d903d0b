"""Admission of waiting requests to replicas. Pure: no clock, no loop, no wire.

The policy orders the line; its head is admitted as soon as a replica has room. A request is never
overtaken by one behind it: a large one waits, it does not starve. A replica is never committed to
more than it has, except that an empty one takes any request.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from chassis.policies.policy import Policy
from chassis.policies.registry import DEFAULT_POLICY, POLICIES
from router.admission.demand import Demand, Ticket
from router.admission.ledger import Ledger

_MOST_GONE = 64  # tickets that have left may stay in line until there are so many

K = TypeVar("K")
Allows = Callable[["Ticket", K], bool]


class QueueFull(Exception):
    """As many requests wait as may wait."""


class AdmissionQueue:
    """Requests that have arrived and not been admitted, in the order of a policy.

    A ticket is in line once its demand is known, which takes the tokenizer. A request that the
    quarantine isolates goes before all others.
    """

    def __init__(self, limit: int, policy: Policy = POLICIES[DEFAULT_POLICY]) -> None:
        """Let at most `limit` requests wait, in the order of `policy`."""
        self._limit = limit
        self._policy = policy
        self._arrivals = 0
        self._waiting: set[Ticket] = set()
        self._line: list[Ticket] = []  # heap; holds tickets that have left until they surface

    def __len__(self) -> int:
        """Requests not yet admitted, in line or not."""
        return len(self._waiting)

    def arrive(self, priority: int, deadline: float | None = None) -> Ticket:
        """Take a place.

        Args:
            priority: lower goes first.
            deadline: when the answer must have ended; None: whenever it does.

        Raises:
            QueueFull: there is none.
        """
        if len(self._waiting) >= self._limit:
            raise QueueFull(f"{self._limit} requests wait already")
        self._arrivals += 1
        ticket = Ticket(priority, self._arrivals, deadline)
        self._waiting.add(ticket)
        return ticket

    def line_up(self, ticket: Ticket, demand: Demand) -> None:
        """Stand in line at the place that `ticket` gives, again where it was admitted before."""
        ticket.demand = demand
        ticket.first = demand.standing.goes_first
        ticket.rank = self._policy.admission_rank(ticket.claim)
        self._waiting.add(ticket)
        heapq.heappush(self._line, ticket)

    def leave(self, ticket: Ticket) -> None:
        """Give up the place; nothing where it was given up or admitted already."""
        self._waiting.discard(ticket)
        if len(self._line) > 2 * len(self._waiting) + _MOST_GONE:
            self._line = [ticket for ticket in self._line if ticket in self._waiting]
            heapq.heapify(self._line)

    def line(self) -> list[Ticket]:
        """Tickets in line, in order."""
        inside = (ticket for ticket in self._line if ticket in self._waiting)
        return sorted(inside, key=lambda ticket: ticket.order)

    def admit(
        self, ledgers: Mapping[K, Ledger], allows: Allows[K] | None = None
    ) -> Iterator[tuple[Ticket, K]]:
        """Admit from the head of the line while a replica has room; enter each in its ledger.

        Args:
            ledgers: of the replicas that may be chosen.
            allows: whether a ticket may start on a replica that has room for it; None: it may.
        """
        while self._line:
            ticket = self._line[0]
            if ticket not in self._waiting or ticket.demand is None:
                heapq.heappop(self._line)
                continue
            key = _choose(ledgers, ticket, ticket.demand, allows)
            if key is None:
                return
            heapq.heappop(self._line)
            self._waiting.discard(ticket)
            ticket.admitted = True
            ledgers[key].enter(ticket, ticket.demand)
            yield ticket, key


def _choose(
    ledgers: Mapping[K, Ledger], ticket: Ticket, demand: Demand, allows: Allows[K] | None
) -> K | None:
    """The replica with room, and allowed, whose KV pool is the least committed, or None."""
    fitting = [
        (ledger.share, i, key)
        for i, (key, ledger) in enumerate(ledgers.items())
        if ledger.fits(demand) and (allows is None or allows(ticket, key))
    ]
    return min(fitting)[2] if fitting else None
