"""What runs in the next engine step. Pure: no tensors, no clock; a plan is plain data.

A sequence's tokens are *known* (prompt and output so far) and, the first of them, *computed* (their
K and V are in the pool). A step computes a chunk of each chosen sequence; the chunk that reaches
the last known token draws the next. A decode is a chunk of one token.

Invariants: decodes go first and no step exceeds its token budget; the first running sequence always
advances, if need be by putting back the last (its slots are freed and it is recomputed later), so
every sequence ends; a waiting sequence is never overtaken by a later one; candidates of a request
that run share the slots of its prompt, which is not computed again while one of them holds it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model_svc.scheduling.slot_pool import SlotPool

Order = tuple[int, int, int]


@dataclass(eq=False, slots=True)
class Prefix:
    """What all candidates of a request begin with: its prompt.

    Attributes:
        tokens: how many tokens it is.
        members: the sequences in the scheduler that begin with it.
    """

    tokens: int
    members: list[Sequence] = field(default_factory=list, repr=False)


@dataclass(eq=False, slots=True)
class Sequence:
    """One candidate of a request.

    Attributes:
        order: (priority, arrival, candidate): lower runs first and is put back last.
        known: tokens known.
        prefix: what it begins with.
        computed: tokens whose K and V are in the pool.
        row: its row of the slot table, -1 while it holds none.
    """

    order: Order
    known: int
    prefix: Prefix
    computed: int = 0
    row: int = -1

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return self.known - self.computed

    @property
    def sharable(self) -> int:
        """Tokens it can take from another; its last, that a token is drawn after, is its own."""
        return min(self.prefix.tokens, self.known - 1)


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
        """Sequences that hold none."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        sequence.prefix.members.append(sequence)
        self._queue(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it stands; one that nobody knows is no error."""
        if sequence.row >= 0:
            self._running.remove(sequence)
            self._release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            return
        sequence.prefix.members.remove(sequence)

    def plan(self) -> Plan:
        """Choose the next step, give its tokens their slots and count them as computed.

        Whoever draws a token adds one to its sequence's `known`.
        """
        preempted = self._make_room()
        decodes = [sequence for sequence in self._running if sequence.pending == 1]
        prompts = [sequence for sequence in self._running if sequence.pending > 1]
        chunks = self._decodes(decodes)
        budget = self._budget - len(chunks)
        for sequence in prompts:
            count = min(sequence.pending, budget, self._pool.free_slots)
            if count:
                chunks.append(self._chunk(sequence, count))
                budget -= count
        while budget and (started := self._admit()) is not None:
            count = min(started.pending, budget)
            chunks.append(self._chunk(started, count))
            budget -= count
        return Plan(chunks, preempted)

    def _decodes(self, sequences: list[Sequence]) -> list[Chunk]:
        """Chunks of one token each; all slots are taken at once, for there may be many."""
        rows = [sequence.row for sequence in sequences]
        starts = [sequence.computed for sequence in sequences]
        self.slot_table[rows, starts] = self._pool.take(len(sequences))
        chunks = []
        for sequence, start in zip(sequences, starts, strict=True):
            sequence.computed += 1
            others = tuple(self._fork(sequence)) if self._waiting else ()
            chunks.append(Chunk(sequence, start, 1, (sequence, *others)))
        return chunks

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.computed
        self.slot_table[sequence.row, start : start + count] = self._pool.take(count)
        sequence.computed += count
        draws = () if sequence.pending else (sequence, *self._fork(sequence))
        return Chunk(sequence, start, count, draws)

    def _fork(self, leader: Sequence) -> Iterator[Sequence]:
        """Start those next in the queue that know what `leader` does, where that is the prompt.

        They draw from the same logits.
        """
        prompt = leader.prefix
        while self._waiting and self._free_rows:
            head = self._waiting[0]
            if head.prefix is not prompt or not head.known == leader.known == prompt.tokens:
                return
            yield self._start(leader, prompt.tokens)

    def _admit(self) -> Sequence | None:
        """Start the head of the queue, if it can start and, as far as can be seen, stay.

        It must leave room for what running sequences still lack and one token for each that runs.
        """
        if not self._waiting or not self._free_rows:
            return None
        head = self._waiting[0]
        donor = next((one for one in head.prefix.members if one.row >= 0), None)
        shared = head.sharable if donor is not None else 0
        lacking = sum(sequence.pending + 1 for sequence in self._running)
        if self._running and head.known - shared + lacking >= self._pool.free_slots:
            return None
        # Who still lacks some of the prompt has left no budget, or no slot.
        assert donor is None or donor.computed >= shared
        return self._start(donor, shared)

    def _start(self, donor: Sequence | None, shared: int) -> Sequence:
        """Start the head of the queue with the first `shared` slots of `donor`."""
        sequence = self._waiting.pop(0)
        sequence.row = self._free_rows.pop()
        bisect.insort(self._running, sequence, key=_order)
        if donor is not None:
            slots = self.slot_table[donor.row, :shared]
            self._pool.share(slots)
            self.slot_table[sequence.row, :shared] = slots
        sequence.computed = shared
        return sequence

    def _queue(self, sequence: Sequence) -> None:
        bisect.insort(self._waiting, sequence, key=_order)

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
            self._queue(last)
            preempted.append(last)
        return preempted

    def _least_need(self) -> int:
        decodes = sum(sequence.pending == 1 for sequence in self._running)
        return decodes + (self._running[0].pending > 1)
