"""What runs in the next engine step. Pure: no tensors, no clock; a plan is plain data.

A sequence's tokens are *known* (prompt and output so far) and, the first of them, *computed* (their
K and V are in the pool). A step computes a chunk of each chosen sequence; the chunk that reaches
the last known token draws the next. A decode is a chunk of one token.

Invariants: decodes go first and no step exceeds its token budget; the first running sequence always
advances, if need be by putting back the last (its slots are freed and it is recomputed later), so
every sequence ends; a waiting sequence is never overtaken by a later one.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model_svc.slot_pool import SlotPool

Order = tuple[int, int, int]


@dataclass(eq=False, slots=True)
class Sequence:
    """One candidate of a request.

    Attributes:
        order: (priority, arrival, candidate): lower runs first and is put back last.
        known: tokens known.
        computed: tokens whose K and V are in the pool.
        row: its row of the slot table, -1 while it holds none.
        followers: candidates that wait for this one's prompt, to share its slots.
    """

    order: Order
    known: int
    computed: int = 0
    row: int = -1
    followers: list[Sequence] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return self.known - self.computed


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one sequence's tokens to compute.

    Attributes:
        start: position of its first token.
        count: tokens.
        draws: whose next token is drawn from its last token's logits; empty before the end.
    """

    sequence: Sequence
    start: int
    count: int
    draws: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One engine step: decodes first, then prompt chunks."""

    chunks: list[Chunk]
    preempted: list[Sequence]

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.count for chunk in self.chunks)


def _order(sequence: Sequence) -> Order:
    return sequence.order


class Scheduler:
    """Sequences waiting and running over one slot pool."""

    def __init__(self, pool: SlotPool, *, rows: int, context: int, max_batch_tokens: int) -> None:
        """Share `pool` among at most `rows` sequences of at most `context` tokens each."""
        if max_batch_tokens < rows:
            raise ValueError(f"{max_batch_tokens} tokens a step cannot serve {rows} decodes")
        self._pool = pool
        self._budget = max_batch_tokens
        self._free_rows = list(range(rows - 1, -1, -1))
        self._waiting: list[Sequence] = []  # sorted by order
        self._running: list[Sequence] = []  # sorted by order
        self.slot_table: npt.NDArray[np.int32] = np.zeros((rows, context), dtype=np.int32)

    @property
    def running(self) -> int:
        """Sequences that hold slots."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that hold none, followers included."""
        queued = (*self._waiting, *self._running)
        return len(self._waiting) + sum(len(sequence.followers) for sequence in queued)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence with its followers."""
        bisect.insort(self._waiting, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it stands; one that nobody knows is no error.

        A waiting or unfinished leader hands its followers to the first of them.
        """
        if sequence.row >= 0:
            self._running.remove(sequence)
            self._release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            for leader in (*self._waiting, *self._running):
                if sequence in leader.followers:
                    leader.followers.remove(sequence)
        if sequence.followers:
            first, *rest = sequence.followers
            first.followers = rest
            sequence.followers = []
            self.add(first)

    def plan(self) -> Plan:
        """Choose the next step, give its tokens their slots and count them as computed.

        Whoever draws a token adds one to its sequence's `known`.
        """
        preempted = self._make_room()
        decodes = [sequence for sequence in self._running if sequence.pending == 1]
        prompts = [sequence for sequence in self._running if sequence.pending > 1]
        chunks = [self._chunk(sequence, 1) for sequence in decodes]
        budget = self._budget - len(chunks)
        for sequence in prompts:
            count = min(sequence.pending, budget, self._pool.free_slots)
            if count:
                chunks.append(self._chunk(sequence, count))
                budget -= count
        while budget and self._admissible():
            sequence = self._start(self._waiting.pop(0))
            count = min(sequence.pending, budget)
            chunks.append(self._chunk(sequence, count))
            budget -= count
        return Plan(chunks, preempted)

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.computed
        self.slot_table[sequence.row, start : start + count] = self._pool.take(count)
        draws: tuple[Sequence, ...] = ()
        sequence.computed += count
        if not sequence.pending:
            draws = (sequence, *self._fork(sequence))
        return Chunk(sequence, start, count, draws)

    def _fork(self, leader: Sequence) -> list[Sequence]:
        """Let followers share the leader's slots; those without a row compute the prompt later."""
        forked = []
        followers, leader.followers = leader.followers, []
        for follower in followers:
            if not self._free_rows:
                self.add(follower)
                continue
            self._start(follower)
            slots = self.slot_table[leader.row, : leader.known]
            self._pool.share(slots)
            self.slot_table[follower.row, : leader.known] = slots
            follower.computed = leader.known
            forked.append(follower)
        return forked

    def _start(self, sequence: Sequence) -> Sequence:
        sequence.row = self._free_rows.pop()
        bisect.insort(self._running, sequence, key=_order)
        return sequence

    def _release(self, sequence: Sequence) -> None:
        self._pool.give_back(self.slot_table[sequence.row, : sequence.computed])
        self._free_rows.append(sequence.row)
        sequence.row = -1
        sequence.computed = 0

    def _make_room(self) -> list[Sequence]:
        """Put back the last sequences until all decodes and the first sequence can advance."""
        preempted = []
        while self._running and self._pool.free_slots < self._least_need():
            last = self._running.pop()
            self._release(last)
            self.add(last)
            preempted.append(last)
        return preempted

    def _least_need(self) -> int:
        decodes = sum(sequence.pending == 1 for sequence in self._running)
        return decodes + (self._running[0].pending > 1)

    def _admissible(self) -> bool:
        """Whether the head of the queue can start and, as far as can be seen, stay.

        It must leave room for what running prompts still lack and one token for each that runs.
        """
        if not self._waiting or not self._free_rows:
            return False
        if not self._running:
            return True
        lacking = sum(sequence.pending + 1 for sequence in self._running)
        return self._waiting[0].pending + lacking < self._pool.free_slots
