"""Commitments of a replica, and its speed. Pure: no clock, no loop, no wire.

It is never committed to more than it has, except that an empty one takes any request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from router.admission.demand import Demand, Ticket, Work, held_slots
from router.admission.pace import Pace
from router.admission.quarantine import Isolation


@dataclass(slots=True)
class _Entry:
    """One request's part of a replica."""

    demand: Demand  # as it was at the start
    reserved_tokens: int
    outputs: dict[int, int]  # of each candidate not finished
    uncomputed: int  # tokens to compute before the first of the output; 0 after it
    submit: int = 0  # its place among the submits of the stream; 0: not sent

    @property
    def left(self) -> int:
        return self.demand.max_tokens - min(self.outputs.values())

    def slots(self) -> int:
        return held_slots(self.demand.prompt_tokens, self.reserved_tokens, self.outputs)


@dataclass(slots=True)
class Ledger:
    """Commitments of one replica, as this router knows them and the replica reports them.

    Attributes:
        kv_slots: tokens that its KV pool holds.
        max_sequences: candidates that may run at once.
        pace: its speed, measured by what the ledger counts.
    """

    kv_slots: int
    max_sequences: int
    pace: Pace = field(default_factory=Pace)
    _entries: dict[Ticket, _Entry] = field(default_factory=dict)
    _unseen: dict[Ticket, _Entry] = field(default_factory=dict)  # not in the last report
    _isolation: Isolation[Ticket] = field(default_factory=Isolation)
    _own_slots: int = 0
    _own_sequences: int = 0
    _submits: int = 0
    _reported_slots: int = 0
    _reported_sequences: int = 0
    _deadlines: int = 0  # entries that have one
    _frame_rows: int = 0  # what grew since the last frame
    _frame_tokens: int = 0
    _frame_prompts: int = 0
    _frame_open: int = 0

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
        """Tell whether a request may start now. An empty replica takes any."""
        if not self._entries:
            return True
        return (
            self._isolation.may_start(demand.standing)
            and self.committed + demand.slots <= self.kv_slots
            and self.sequences + len(demand.outputs) <= self.max_sequences
        )

    def enter(self, ticket: Ticket, demand: Demand) -> None:
        """Commit to a request."""
        outputs = dict(demand.outputs)
        entry = _Entry(demand, demand.reserved_tokens, outputs, demand.uncomputed)
        self._entries[ticket] = entry
        self._deadlines += ticket.deadline is not None
        self._unseen[ticket] = entry
        self._own_slots += entry.slots()
        self._own_sequences += len(outputs)
        self._isolation.enter(ticket, demand.standing)

    def submit(self, ticket: Ticket) -> None:
        """Count a request as sent to the replica."""
        self._submits += 1
        self._entries[ticket].submit = self._submits

    @property
    def hurried(self) -> bool:
        """True where a request has a deadline."""
        return self._deadlines > 0

    def isolates(self, ticket: Ticket) -> bool:
        """Tell whether a request is the suspect that others may not start beside."""
        return self._isolation.holds(ticket)

    def clear(self, ticket: Ticket) -> None:
        """Let others start beside the suspect."""
        self._isolation.clear(ticket)

    def grow(self, ticket: Ticket, candidate: int, tokens: int) -> None:
        """Note that a candidate has produced `tokens` more."""
        entry = self._entries[ticket]
        before = entry.outputs[candidate]
        after = before + tokens
        entry.outputs[candidate] = after
        reserved = entry.reserved_tokens
        self._own_slots += max(after, reserved) - max(before, reserved)
        self._frame_rows += 1
        self._frame_tokens += tokens
        self._frame_prompts += entry.uncomputed
        entry.uncomputed = 0
        if entry.demand.may_stop:
            self._frame_open += tokens

    def frame(self, now: float) -> bool:
        """Note that what has grown came in one frame; answer whether `pace` has changed."""
        grown = self._frame_rows, self._frame_tokens, self._frame_prompts, self._frame_open
        self._frame_rows = self._frame_tokens = self._frame_prompts = self._frame_open = 0
        return bool(self._entries) and self.pace.frame(now, *grown)

    def finish(self, ticket: Ticket, candidate: int) -> None:
        """Note that a candidate has ended."""
        entry = self._entries[ticket]
        tokens = entry.outputs.pop(candidate)
        self._own_slots -= max(tokens, entry.reserved_tokens)
        self._own_sequences -= 1
        if not entry.outputs and ticket.deadline is not None:
            self.pace.deadline(met=True)
        if entry.demand.may_stop:
            self.pace.ended(stopped=tokens < entry.demand.max_tokens)

    def leave(self, ticket: Ticket, *, missed: bool = False) -> None:
        """Free what a request holds; nothing where it has left already.

        Args:
            ticket: of the request.
            missed: whether its deadline has passed.
        """
        entry = self._entries.pop(ticket, None)
        self._unseen.pop(ticket, None)
        self._isolation.leave(ticket)
        if entry is not None:
            self._own_slots -= entry.slots()
            self._own_sequences -= len(entry.outputs)
            self._deadlines -= ticket.deadline is not None
            if missed and entry.outputs:
                self.pace.deadline(met=False)
            if not self._entries:
                self.pace.pause()

    def work(self) -> Iterator[tuple[Ticket, Work]]:
        """Rest of each request's computation."""
        for ticket, entry in self._entries.items():
            if not entry.outputs:
                continue
            left, may_stop = entry.left, entry.demand.may_stop
            yield (
                ticket,
                Work(
                    tokens=self.pace.outputs(left, may_stop=may_stop),
                    likely_tokens=self.pace.likely_outputs(left, may_stop=may_stop),
                    rows=len(entry.outputs),
                    slots=entry.slots(),
                    prompt_tokens=entry.uncomputed,
                    deadline=ticket.deadline,
                ),
            )

    def report(self, submits_seen: int, kv_slots_used: int, sequences: int) -> None:
        """Take the replica's own figures, which include the first `submits_seen` submits."""
        self._reported_slots = kv_slots_used
        self._reported_sequences = sequences
        for ticket, entry in list(self._unseen.items()):
            if 0 < entry.submit <= submits_seen:
                del self._unseen[ticket]
