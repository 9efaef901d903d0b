"""Sequences of the scheduler, and the numbers of those that hold a row, as arrays.

Invariant: a sequence's numbers are in the arrays while it holds a row, and in the sequence
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chassis.policies.policy import Claim, Rank

Int64s = npt.NDArray[np.int64]

NO_LIMIT = 2**62


class RowNumbers:
    """Numbers of the sequences in rows; [rows] each.

    Attributes:
        known: tokens known, those promised by steps in flight included.
        computed: tokens whose K and V are in the pool, or will be after the steps in flight.
        limit: tokens that may be known at most: one that knows as many is computed no further.
        promised: draws in flight.
        draws: whether the chunk that reaches the last known token draws the next.
        drafted: proposed tokens to verify in the next step.
        serial: whether a draw must be settled before the next step is planned.
        held: whether such a draw, or a verification, is in flight.
        generation: sequences that have held the row.
    """

    def __init__(self, rows: int) -> None:
        self.known = np.zeros(rows, np.int64)
        self.computed = np.zeros(rows, np.int64)
        self.limit = np.zeros(rows, np.int64)
        self.promised = np.zeros(rows, np.int64)
        self.draws = np.zeros(rows, np.bool_)
        self.drafted = np.zeros(rows, np.int64)
        self.serial = np.zeros(rows, np.bool_)
        self.held = np.zeros(rows, np.bool_)
        self.generation = np.zeros(rows, np.int64)
        self.moves = 0
        """Count of rows taken or left."""
        self.some_serial = False
        """True once there has been a serial sequence."""
        self.some_held = False
        """False if no row is held."""

    def pending(self, rows: Int64s) -> Int64s:
        """Tokens to compute of the sequences in `rows`, drafts not counted."""
        known = self.known[rows]
        result: Int64s = known - self.computed[rows]
        idle = known >= self.limit[rows]
        if self.some_held:
            idle |= self.held[rows]
            self.some_held = bool(self.held.any())
        if np.count_nonzero(idle):
            result[idle] = 0
        return result


@dataclass(eq=False, slots=True)
class Prefix:
    """Common beginning of all candidates of a request: its prompt.

    Attributes:
        tokens: tokens of it.
        members: the sequences in the scheduler that begin with it.
    """

    tokens: int
    members: list[Sequence] = field(default_factory=list, repr=False)


class Sequence:
    """One candidate of a request.

    Attributes:
        claim: the facts that the policy orders it by.
        prefix: its prompt.
        row: its row of the slot table, -1 while it holds none.
        draft: proposed next tokens, to be verified in the next step.
        admission_rank, step_rank, victim_rank: answers of the policy.
    """

    __slots__ = (
        "_known",
        "_limit",
        "_numbers",
        "_promised",
        "admission_rank",
        "claim",
        "draft",
        "draws",
        "prefix",
        "row",
        "serial",
        "step_rank",
        "victim_rank",
    )

    def __init__(
        self,
        claim: Claim,
        known: int,
        prefix: Prefix,
        *,
        limit: int = NO_LIMIT,
        draws: bool = True,
        serial: bool = False,
    ) -> None:
        """Begin without a row.

        Args:
            claim: the facts that the policy orders it by.
            known: tokens known, prompt and output.
            prefix: its prompt.
            limit: tokens known at most; no step computes or draws beyond.
            draws: whether tokens are drawn; otherwise it is computed once, to its last token.
            serial: whether a token must be known on the host before the next is drawn.
        """
        self.claim = claim
        self.prefix = prefix
        self.row = -1
        self.draws = draws
        self.serial = serial
        self.draft: tuple[int, ...] = ()
        self.admission_rank: Rank = ()
        self.step_rank: Rank = ()
        self.victim_rank: Rank = ()
        self._known = known
        self._limit = limit
        self._promised = 0
        self._numbers: RowNumbers | None = None

    def __repr__(self) -> str:
        return f"Sequence({self.claim}, row={self.row}, {self.computed}/{self.known})"

    @property
    def known(self) -> int:
        """Tokens known, promised ones included."""
        return self._known if self._numbers is None else int(self._numbers.known[self.row])

    @property
    def computed(self) -> int:
        """Tokens whose K and V are in the pool, or will be after the steps in flight."""
        return 0 if self._numbers is None else int(self._numbers.computed[self.row])

    @property
    def promised(self) -> int:
        """Draws in flight."""
        return self._promised if self._numbers is None else int(self._numbers.promised[self.row])

    @property
    def pending(self) -> int:
        """Tokens known but not computed."""
        return self.known - self.computed

    @property
    def sharable(self) -> int:
        """Tokens it can take from another; its last, that a token is drawn after, is its own."""
        return min(self.prefix.tokens, self.known - 1)

    def enter_row(self, row: int, numbers: RowNumbers, computed: int) -> None:
        """Hold `row` with so many tokens computed."""
        numbers.known[row] = self._known
        numbers.computed[row] = computed
        numbers.limit[row] = self._limit
        numbers.promised[row] = self._promised
        numbers.draws[row] = self.draws
        numbers.drafted[row] = len(self.draft)
        numbers.serial[row] = self.serial
        numbers.held[row] = False
        numbers.generation[row] += 1
        numbers.moves += 1
        numbers.some_serial |= self.serial
        self.row, self._numbers = row, numbers

    def leave_row(self) -> None:
        """Hold no row, and nothing computed."""
        assert self._numbers is not None
        self._known, self._promised = self.known, self.promised
        self._numbers.generation[self.row] += 1
        self._numbers.moves += 1
        self.row, self._numbers, self.draft = -1, None, ()

    def settle_without_row(self, tokens: int) -> None:
        """Take note that a draw in flight when it lost its row gave `tokens` beyond its promise."""
        self._promised -= 1
        self._known += tokens
