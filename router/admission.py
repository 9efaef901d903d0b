"""Which request starts next, and where. Pure: no clock, no loop, no wire.

A request is never overtaken by one behind it: a large one waits, it does not starve. A replica is
never committed to more than it has, except that an empty one takes any request. What has been
running in two engine crashes starts among proven requests only, and alone of its kind. If the
engine crashes then, that one starts first and by itself: a further crash is its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from router.demand import Demand, Standing, held_slots

_MOST_GONE = 64  # tickets that have left may stay in line until there are so many

K = TypeVar("K")


class QueueFull(Exception):
    """As many requests wait as may wait."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue; kept when it has to queue again."""

    priority: int
    arrival: int
    demand: Demand | None = None
    first: bool = False
    """Whether it goes before all others, because they cannot go on before it is tried."""

    def __lt__(self, other: Ticket) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[bool, int, int]:
        return (not self.first, self.priority, self.arrival)


class AdmissionQueue:
    """Requests that have arrived and not been admitted, ordered by priority, then arrival.

    A ticket is in line once its demand is known, which takes the tokenizer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrivals = 0
        self._waiting: set[Ticket] = set()
        self._line: list[Ticket] = []  # heap; holds tickets that have left until they surface

    def __len__(self) -> int:
        """Requests not yet admitted, in line or not."""
        return len(self._waiting)

    def arrive(self, priority: int) -> Ticket:
        """Take a place.

        Raises:
            QueueFull: there is none.
        """
        if len(self._waiting) >= self._limit:
            raise QueueFull(f"{self._limit} requests wait already")
        self._arrivals += 1
        ticket = Ticket(priority, self._arrivals)
        self._waiting.add(ticket)
        return ticket

    def line_up(self, ticket: Ticket, demand: Demand) -> None:
        """Stand in line at the place that `ticket` gives, again where it was admitted before."""
        ticket.demand = demand
        ticket.first = demand.standing is Standing.PRIME
        self._waiting.add(ticket)
        heapq.heappush(self._line, ticket)

    def leave(self, ticket: Ticket) -> None:
        """Give up the place; nothing where it was given up or admitted already."""
        self._waiting.discard(ticket)
        if len(self._line) > 2 * len(self._waiting) + _MOST_GONE:
            self._line = [ticket for ticket in self._line if ticket in self._waiting]
            heapq.heapify(self._line)

    def admit(self, ledgers: Mapping[K, Ledger]) -> Iterator[tuple[Ticket, K]]:
        """Admit from the head of the line while a replica has room; enter each in its ledger."""
        while self._line:
            ticket = self._line[0]
            if ticket not in self._waiting or ticket.demand is None:
                heapq.heappop(self._line)
                continue
            key = choose(ledgers, ticket.demand)
            if key is None:
                return
            heapq.heappop(self._line)
            self._waiting.discard(ticket)
            ledgers[key].enter(ticket, ticket.demand)
            yield ticket, key


def choose(ledgers: Mapping[K, Ledger], demand: Demand) -> K | None:
    """The replica with room whose KV pool is the least committed, or None."""
    fitting = [
        (ledger.share, i, key)
        for i, (key, ledger) in enumerate(ledgers.items())
        if ledger.fits(demand)
    ]
    return min(fitting)[2] if fitting else None


@dataclass(slots=True)
class _Entry:
    """What one request holds of a replica."""

    prompt_tokens: int
    reserved_tokens: int
    outputs: dict[int, int]  # of each candidate not finished
    standing: Standing
    submit: int = 0  # its place among the submits of the stream; 0: not sent

    def slots(self) -> int:
        return held_slots(self.prompt_tokens, self.reserved_tokens, self.outputs)


@dataclass(slots=True)
class Ledger:
    """What one replica is committed to, as this router knows it and the replica reports it.

    Attributes:
        kv_slots: tokens that its KV pool holds.
        max_sequences: candidates that may run at once.
    """

    kv_slots: int
    max_sequences: int
    _entries: dict[Ticket, _Entry] = field(default_factory=dict)
    _unseen: dict[Ticket, _Entry] = field(default_factory=dict)  # not in the last report
    _suspect: Ticket | None = None
    _own_slots: int = 0
    _own_sequences: int = 0
    _submits: int = 0
    _reported_slots: int = 0
    _reported_sequences: int = 0

    def __len__(self) -> int:
        """This router's requests on the replica."""
        return len(self._entries)

    @property
    def committed(self) -> int:
        """Slots spoken for. The report counts what other routers hold; it may lag behind."""
        unseen = sum(entry.slots() for entry in self._unseen.values())
        return max(self._own_slots, self._reported_slots + unseen)

    @property
    def sequences(self) -> int:
        """Candidates spoken for."""
        unseen = sum(len(entry.outputs) for entry in self._unseen.values())
        return max(self._own_sequences, self._reported_sequences + unseen)

    @property
    def share(self) -> float:
        """Committed part of the pool."""
        return self.committed / self.kv_slots

    def fits(self, demand: Demand) -> bool:
        """Whether a request may start now. An empty replica takes any."""
        if not self._entries:
            return True
        if self._suspect is not None or demand.standing is Standing.PRIME:
            return False
        if demand.standing is Standing.SUSPECT and not self._all_proven():
            return False
        return (
            self.committed + demand.slots <= self.kv_slots
            and self.sequences + len(demand.outputs) <= self.max_sequences
        )

    def enter(self, ticket: Ticket, demand: Demand) -> None:
        """Commit to a request."""
        outputs = dict(demand.outputs)
        entry = _Entry(demand.prompt_tokens, demand.reserved_tokens, outputs, demand.standing)
        self._entries[ticket] = entry
        self._unseen[ticket] = entry
        self._own_slots += entry.slots()
        self._own_sequences += len(outputs)
        if demand.standing in (Standing.SUSPECT, Standing.PRIME):
            self._suspect = ticket

    def submit(self, ticket: Ticket) -> None:
        """Count a request as sent to the replica."""
        self._submits += 1
        self._entries[ticket].submit = self._submits

    def suspects(self, ticket: Ticket) -> bool:
        """Whether a request keeps others from starting."""
        return ticket is self._suspect

    def prove(self, ticket: Ticket) -> None:
        """Let others start beside the suspect."""
        self._entries[ticket].standing = Standing.PROVEN
        self._suspect = None

    def grow(self, ticket: Ticket, candidate: int, tokens: int) -> None:
        """Note that a candidate has produced `tokens` more."""
        entry = self._entries[ticket]
        before = entry.outputs[candidate]
        after = before + tokens
        entry.outputs[candidate] = after
        reserved = entry.reserved_tokens
        self._own_slots += max(after, reserved) - max(before, reserved)

    def finish(self, ticket: Ticket, candidate: int) -> None:
        """Note that a candidate has ended."""
        entry = self._entries[ticket]
        tokens = entry.outputs.pop(candidate)
        self._own_slots -= max(tokens, entry.reserved_tokens)
        self._own_sequences -= 1

    def leave(self, ticket: Ticket) -> None:
        """Free what a request holds; nothing where it has left already."""
        entry = self._entries.pop(ticket, None)
        self._unseen.pop(ticket, None)
        if ticket is self._suspect:
            self._suspect = None
        if entry is not None:
            self._own_slots -= entry.slots()
            self._own_sequences -= len(entry.outputs)

    def report(self, submits_seen: int, kv_slots_used: int, sequences: int) -> None:
        """Take the replica's own figures, which include the first `submits_seen` submits."""
        self._reported_slots = kv_slots_used
        self._reported_sequences = sequences
        for ticket, entry in list(self._unseen.items()):
            if 0 < entry.submit <= submits_seen:
                del self._unseen[ticket]

    def _all_proven(self) -> bool:
        return all(entry.standing is Standing.PROVEN for entry in self._entries.values())
