"""The three questions that queues and schedulers ask of a scheduling policy. Pure: plain data.

Invariant: an answer depends on the claim alone, so sorted queues stay sorted.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

Rank = tuple[float, ...]
"""Sort key; ranks of one question have one length."""


class Claim(NamedTuple):
    """Facts of a request, or of one candidate, that a policy may order by.

    Attributes:
        priority: as the request asks; lower is more urgent.
        arrival: number of the request in order of arrival.
        candidate: index among the request's candidates; 0 for a whole request.
        prompt_tokens: length of the prompt.
        max_tokens: output tokens of one candidate at most.
    """

    priority: int
    arrival: int
    candidate: int = 0
    prompt_tokens: int = 0
    max_tokens: int = 0


class Policy(Protocol):
    """Order of admission, of computation and of preemption.

    The queue and the scheduler admit from the front only: a claim waits until there is room for
    it, and no claim behind it overtakes. A policy must let every claim come to the front: ranks of
    later arrivals have to grow past it.
    """

    def admission_rank(self, claim: Claim) -> Rank:
        """Place among the waiting; the lowest starts first."""

    def step_rank(self, claim: Claim) -> Rank:
        """Place in a step; the lowest is computed first, and always advances."""

    def victim_rank(self, claim: Claim) -> Rank:
        """Place in line for preemption; the highest is preempted first.

        The sequence lowest in `step_rank` is never preempted.
        """
