"""Needs of a request for a replica. Pure: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chassis.policies.policy import Claim, Rank
from router.admission.quarantine import Standing

RESERVED_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Demand:
    """Needs of a request.

    Attributes:
        prompt_tokens: tokens of its prompt, held once.
        max_tokens: output tokens of one candidate at most.
        outputs: candidate that has not ended → output tokens that it has from earlier attempts.
        standing: suspicion against it after engine crashes.
        may_stop: whether an output may end before it has `max_tokens`.
    """

    prompt_tokens: int
    max_tokens: int
    outputs: Mapping[int, int]
    standing: Standing = Standing.CLEAR
    may_stop: bool = True

    @classmethod
    def fresh(cls, prompt_tokens: int, candidates: int, max_tokens: int) -> Demand:
        """Needs of a request that has not run yet."""
        return cls(prompt_tokens, max_tokens, dict.fromkeys(range(candidates), 0))

    @property
    def reserved_tokens(self) -> int:
        """Output slots of one candidate that must be had at its start."""
        return min(self.max_tokens, RESERVED_TOKENS)

    @property
    def uncomputed(self) -> int:
        """Tokens that are known at its start, and computed before it goes on."""
        return self.prompt_tokens + sum(self.outputs.values())

    @property
    def slots(self) -> int:
        """KV slots that must be had at its start."""
        return held_slots(self.prompt_tokens, self.reserved_tokens, self.outputs)


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue; kept when it has to queue again."""

    priority: int
    arrival: int
    deadline: float | None = None
    """Time by which the answer must have ended, by the loop's clock."""
    demand: Demand | None = None
    rank: Rank = ()
    """Place among the waiting, by the policy; set once the demand is known."""
    first: bool = False
    """True where it goes before all others, whatever their priority."""
    admitted: bool = False
    """True once it has had a place; it is not refused any more then."""

    def __lt__(self, other: Ticket) -> bool:
        return self.order < other.order

    @property
    def asked(self) -> Demand:
        """The demand of a ticket that has been in line."""
        assert self.demand is not None
        return self.demand

    @property
    def order(self) -> tuple[bool, Rank]:
        """Sort key of tickets in line; the lowest goes first."""
        return (not self.first, self.rank)

    @property
    def claim(self) -> Claim:
        """The facts that a policy may order by."""
        demand = self.asked
        return Claim(
            self.priority,
            self.arrival,
            prompt_tokens=demand.prompt_tokens,
            max_tokens=demand.max_tokens,
        )


def held_slots(prompt_tokens: int, reserved_tokens: int, outputs: Mapping[int, int]) -> int:
    """Slots committed: what each candidate reserved, or holds where that is more."""
    return prompt_tokens + sum(max(reserved_tokens, tokens) for tokens in outputs.values())


@dataclass(frozen=True, slots=True)
class Work:
    """Rest of a request's computation.

    Attributes:
        tokens: output tokens to be expected of its longest candidate.
        likely_tokens: that it is unlikely to exceed.
        rows: candidates that have not ended.
        slots: KV slots that it holds, or will at its start.
        prompt_tokens: tokens to compute before the first of the output.
        deadline: when it must have ended, in seconds of the loop's clock; None: whenever it does.
    """

    tokens: float
    likely_tokens: float
    rows: int
    slots: int
    prompt_tokens: int
    deadline: float | None
