"""Holds what waits and runs against its deadlines. Pure: no clock, no loop, no wire.

A look at all of it takes a while where there is much, so that it is taken now and then; what comes
in between is held against the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from router.admission.demand import Demand, Ticket
from router.admission.forecast import Forecast, Late, Outlook
from router.admission.ledger import Ledger

APART_S = 0.1
"""Least time between two looks, in seconds."""

K = TypeVar("K")


class Deadlines(Generic[K]):
    """Deadlines of all requests before some replicas.

    Attributes:
        due_at: when the next look may be taken, in seconds of the clock of deadlines.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.due_at = float("-inf")
        self._outlooks: dict[K, Outlook] = {}
        self._forecast: Forecast | None = None

    def look(
        self, ledgers: Mapping[K, Ledger], line: Sequence[Ticket], now: float
    ) -> tuple[list[Late], list[tuple[K, Late]]]:
        """Look at all that waits and runs.

        Returns:
            What is to be refused of `line`; what is to be ended of what runs, and where.
        """
        self.due_at = now + APART_S
        self._forecast = Forecast(ledgers.values(), line, now)
        self._outlooks = {key: Outlook(ledger, now) for key, ledger in ledgers.items()}
        ended = [(key, late) for key, one in self._outlooks.items() for late in one.late(now)]
        for key, _ in ended:
            ledgers[key].pace.deadline(met=False)
        return self._forecast.refused, ended

    def refuses(self, ticket: Ticket, demand: Demand, now: float) -> Late | None:
        """Refuse a request that has just come, if it is too late even with `demand` only."""
        if self._forecast is None or now >= self.due_at:
            return None
        return self._forecast.refuses(ticket, demand)

    def allows(self, ticket: Ticket, key: K, ledger: Ledger, now: float) -> bool:
        """Tell whether a request may start on a replica now."""
        outlook = self._outlooks.get(key)
        if outlook is None or outlook.ledger is not ledger:
            outlook = self._outlooks[key] = Outlook(ledger, now)
        return outlook.allows(ticket, now)

    def start(self, ticket: Ticket, key: K) -> None:
        """Take note that a request has started on a replica."""
        self._outlooks[key].start(ticket)
