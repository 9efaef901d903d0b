"""The next engine step. Pure: no tensors, no clock; a plan is values and the sequences it names.

A sequence's tokens are *known* (prompt and output so far) and, the first of them, *computed* (their
K and V are in the pool). A step computes a chunk of each chosen sequence; the chunk that reaches
the last known token draws the next. That token is *promised* as soon as the step is planned, and
counts as known: its value is in the runner's row before a later step reads it.

Invariants: decodes go first and no step exceeds its token budget; the running sequence that is
first by the policy always advances, if need be by preempting others (their slots are freed and
they are computed again later), so every running sequence ends; a waiting sequence is never
overtaken by a later one, and none is admitted before its promised tokens are settled; candidates
of a request that run share the slots of its prompt, which is not computed again while one of them
holds it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from chassis.policies.policy import Policy
from chassis.policies.registry import DEFAULT_POLICY, POLICIES
from model_svc.sampling.row_index import index_of
from model_svc.scheduling.chunk_builder import ChunkBuilder
from model_svc.scheduling.plan import Plan, Started
from model_svc.scheduling.sequence import Int64s, RowNumbers, Sequence
from model_svc.scheduling.slot_pool import SlotPool, Slots
from model_svc.scheduling.steady_decodes import SteadyDecodes
from model_svc.scheduling.step import Kind

_admission_rank = attrgetter("admission_rank")
_step_rank = attrgetter("step_rank")
_victim_rank = attrgetter("victim_rank")
_NO_ROWS = np.empty(0, np.int64)


class Scheduler:
    """Sequences waiting and running over one slot pool."""

    def __init__(
        self,
        pool: SlotPool,
        *,
        rows: int,
        context: int,
        max_batch_tokens: int,
        policy: Policy = POLICIES[DEFAULT_POLICY],
    ) -> None:
        """Share `pool` among at most `rows` sequences of at most `context` tokens each."""
        if max_batch_tokens < rows:
            raise ValueError(f"{max_batch_tokens} tokens a step cannot serve {rows} decodes")
        self._pool = pool
        self._policy = policy
        self._budget = max_batch_tokens
        self._free_rows = list(range(rows - 1, -1, -1))
        self._waiting: list[Sequence] = []  # sorted by admission rank
        self._running: list[Sequence] = []  # sorted by step rank
        self._running_rows: Int64s = np.empty(0, np.int64)
        self._in_row: list[Sequence | None] = [None] * rows
        self._numbers = RowNumbers(rows)
        self._started: list[Started] = []
        self._drafting = False
        """False if no tokens are proposed for any row."""
        self._verifying = _NO_ROWS
        """Rows to verify in the step that is being planned."""
        self._steady: SteadyDecodes | None = None
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
        sequence.admission_rank = self._policy.admission_rank(sequence.claim)
        sequence.step_rank = self._policy.step_rank(sequence.claim)
        sequence.victim_rank = self._policy.victim_rank(sequence.claim)
        sequence.prefix.members.append(sequence)
        bisect.insort(self._waiting, sequence, key=_admission_rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it stands; one that nobody knows is no error."""
        if sequence.row >= 0:
            self._release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            return
        sequence.prefix.members.remove(sequence)

    def propose(self, sequence: Sequence, draft: tuple[int, ...]) -> None:
        """Have the next step verify `draft` as the next tokens of a running sequence."""
        assert sequence.row >= 0
        sequence.draft = draft
        self._numbers.drafted[sequence.row] = len(draft)
        self._drafting = True

    def plan(self) -> Plan:
        """Choose the next step, give its tokens their slots and promise the tokens it draws."""
        if self._steady is not None and not (self._waiting or self._drafting):
            repeated = self._steady.repeat(self._numbers, self._pool, self.slot_table)
            if repeated is not None:
                return repeated
        plan = self._plan_anew()
        self._steady = SteadyDecodes.of(plan, self._numbers, len(self._running))
        return plan

    def _plan_anew(self) -> Plan:
        self._started = []
        preempted = self._make_room()
        rows = self._running_rows
        pending = self._numbers.pending(rows)
        chunks = ChunkBuilder(self._numbers)
        decoding = pending == 1
        if self._drafting:
            decoding = self._plan_drafts(rows, decoding)
        verifying, self._verifying = self._verifying, _NO_ROWS
        all_decode = np.count_nonzero(decoding) == len(rows)
        self._decode(rows if all_decode else rows[decoding], chunks)
        if len(verifying):
            self._verify(verifying, chunks)
        longer = [] if all_decode else np.flatnonzero(pending > 1).tolist()
        for sequence in [self._running[i] for i in longer]:
            count = min(sequence.pending, self._budget - chunks.tokens, self._pool.available_slots)
            if count:
                self._prefill(sequence, count, chunks)
        while chunks.tokens < self._budget and (started := self._admit()) is not None:
            count = min(started.pending, self._budget - chunks.tokens)
            self._prefill(started, count, chunks)
        return self._plan(chunks, preempted)

    def settle(self, plan: Plan, counts: Int64s | None = None) -> None:
        """Take note of the tokens that the draws of `plan` gave.

        Args:
            plan: the oldest that is not settled.
            counts: [draws], tokens of each draw; None: one of each. Slots computed for proposed
                tokens that were refused are taken back.
        """
        rows, numbers = plan.chunks.draw_rows, self._numbers
        if counts is None and plan.moves == numbers.moves and not numbers.some_serial:
            numbers.promised[index_of(rows)] -= 1
            return
        same = numbers.generation[rows] == plan.generations
        if counts is not None:
            self._settle_verified(plan, counts, same)
        own = rows if same.all() else rows[same]
        numbers.promised[own] -= 1
        # A verification that was planned meanwhile still holds its row.
        numbers.held[own] &= ~numbers.serial[own]
        if own is rows:
            return
        extra = np.zeros(len(rows), np.int64) if counts is None else counts - 1
        for i in np.flatnonzero(~same).tolist():
            sequence = plan.drawing[i]
            if sequence.row < 0:
                sequence.settle_without_row(int(extra[i]))

    def _settle_verified(self, plan: Plan, counts: Int64s, same: npt.NDArray[np.bool_]) -> None:
        """Advance the verified sequences still in their rows beyond their one promised token."""
        numbers, chunks = self._numbers, plan.chunks
        verified = chunks.kinds[chunks.draw_chunks] == Kind.VERIFY
        for i in np.flatnonzero(same & verified).tolist():
            row = int(chunks.draw_rows[i])
            numbers.held[row] = False
            numbers.known[row] += counts[i] - 1
            right, computed = int(numbers.known[row]) - 1, int(numbers.computed[row])
            self._pool.give_back(self.slot_table[row, right:computed])
            numbers.computed[row] = right

    def _decode(self, rows: Int64s, chunks: ChunkBuilder) -> None:
        """Chunks of one token each; all slots are taken at once, for there may be many."""
        starts = self._numbers.computed[rows]
        slots = self._pool.take(len(rows))
        self.slot_table[rows, starts] = slots
        chunks.add_decodes(rows, starts, slots)
        if not self._may_fork():
            chunks.draw_decodes(rows)
            return
        for number, row in enumerate(rows.tolist()):
            self._draw(self._at(row), number, chunks)

    def _plan_drafts(self, rows: Int64s, decoding: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Choose the rows to verify; give which of `rows` are decoded."""
        drafted = self._numbers.drafted
        self._trim_drafts(rows[decoding & (drafted[rows] > 0)], int(np.count_nonzero(decoding)))
        verifying = decoding & (drafted[rows] > 0)
        self._verifying = rows[verifying]
        self._drafting = bool((drafted[rows[~verifying]] > 0).any())
        return decoding & ~verifying

    def _trim_drafts(self, rows: Int64s, decodes: int) -> None:
        """Propose no more tokens than there is room for beside so many `decodes`."""
        spare = min(self._pool.available_slots, self._budget) - decodes
        for row in rows.tolist():
            wanted = int(self._numbers.limit[row] - self._numbers.known[row]) - 1
            sequence = self._at(row)
            self.propose(sequence, sequence.draft[: max(0, min(spare, wanted))])
            spare -= len(sequence.draft)

    def _verify(self, rows: Int64s, chunks: ChunkBuilder) -> None:
        """Chunks of a known token and of the proposed ones."""
        for row in rows.tolist():
            sequence = self._at(row)
            start, draft = sequence.computed, sequence.draft
            chunks.add_verification(row, start, draft, self._take(row, start, 1 + len(draft)))
            sequence.draft = ()

    def _prefill(self, sequence: Sequence, count: int, chunks: ChunkBuilder) -> None:
        start = sequence.computed
        ends = count == sequence.pending
        number = chunks.add_prefill(sequence.row, start, self._take(sequence.row, start, count))
        if ends:
            self._draw(sequence, number, chunks)

    def _take(self, row: int, start: int, count: int) -> Slots:
        slots = self._pool.take(count)
        self.slot_table[row, start : start + count] = slots
        return slots

    def _draw(self, leader: Sequence, number: int, chunks: ChunkBuilder) -> None:
        """Draw after chunk `number` for `leader` and those that know what it does."""
        for sequence in (leader, *self._fork(leader)):
            chunks.draw(sequence.row, number)

    def _may_fork(self) -> bool:
        """Tell if the head of the queue may share the known tokens of a running sequence."""
        if not self._waiting:
            return False
        head = self._waiting[0]
        return head.known == head.prefix.tokens and any(m.row >= 0 for m in head.prefix.members)

    def _fork(self, leader: Sequence) -> Iterator[Sequence]:
        """Start those next in the queue that know what `leader` does, where that is the prompt.

        They draw from the same logits.
        """
        prompt, known = leader.prefix, leader.known
        while self._waiting and self._free_rows:
            head = self._waiting[0]
            if head.prefix is not prompt or not head.known == known == prompt.tokens:
                return
            yield self._start(leader, prompt.tokens)

    def _admit(self) -> Sequence | None:
        """Start the head of the queue, if it can start and, as far as can be seen, stay.

        It must leave room for what running sequences still lack and one token for each that runs.
        """
        if not self._waiting or not self._free_rows:
            return None
        head = self._waiting[0]
        if head.promised:
            return None
        donor = next((one for one in head.prefix.members if one.row >= 0), None)
        shared = head.sharable if donor is not None else 0
        pending = self._numbers.pending(self._running_rows)
        lacking = int(pending.sum()) + len(pending)
        if self._running and head.known - shared + lacking >= self._pool.available_slots:
            return None
        # Who still lacks some of the prompt has left no budget, or no slot.
        assert donor is None or donor.computed >= shared
        return self._start(donor, shared)

    def _start(self, donor: Sequence | None, shared: int) -> Sequence:
        """Start the head of the queue with the first `shared` slots of `donor`."""
        sequence = self._waiting.pop(0)
        row = self._free_rows.pop()
        sequence.enter_row(row, self._numbers, shared)
        self._in_row[row] = sequence
        place = bisect.bisect(self._running, sequence.step_rank, key=_step_rank)
        self._running.insert(place, sequence)
        self._running_rows = np.insert(self._running_rows, place, row)
        slots = np.empty(0, np.int32)
        if donor is not None:
            slots = self.slot_table[donor.row, :shared].copy()
            self._pool.share(slots)
            self.slot_table[row, :shared] = slots
        self._started.append(Started(sequence, slots))
        return sequence

    def _release(self, sequence: Sequence) -> None:
        row = sequence.row
        place = self._running.index(sequence)
        del self._running[place]
        self._running_rows = np.delete(self._running_rows, place)
        self._pool.give_back(self.slot_table[row, : sequence.computed])
        self._free_rows.append(row)
        self._in_row[row] = None
        sequence.leave_row()

    def _make_room(self) -> list[Sequence]:
        """Preempt until all decodes and the first sequence can advance."""
        preempted: list[Sequence] = []
        if self._pool.available_slots > len(self._running):
            return preempted
        while self._running and self._pool.available_slots < self._least_need():
            victim = max(self._running[1:] or self._running, key=_victim_rank)
            self._release(victim)
            bisect.insort(self._waiting, victim, key=_admission_rank)
            preempted.append(victim)
        return preempted

    def _least_need(self) -> int:
        pending = self._numbers.pending(self._running_rows)
        first = pending[pending > 0][:1]
        return int(np.count_nonzero(pending == 1)) + int((first > 1).sum())

    def _at(self, row: int) -> Sequence:
        sequence = self._in_row[row]
        assert sequence is not None
        return sequence

    def _plan(self, chunks: ChunkBuilder, preempted: list[Sequence]) -> Plan:
        built, exhausted = chunks.build()
        sequences = drawing = [self._at(row) for row in built.rows.tolist()]
        if built.draw_rows is not built.rows:
            drawing = [self._at(row) for row in built.draw_rows.tolist()]
        return Plan(
            built,
            sequences,
            drawing,
            self._numbers.generation[built.draw_rows],
            self._numbers.moves,
            self._started,
            preempted,
            [self._at(row) for row in exhausted],
        )
