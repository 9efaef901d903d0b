"""First come, first served within a priority: the default policy, and the pattern of a new one."""

from __future__ import annotations

from chassis.policies.policy import Claim, Rank


class FirstCome:
    """Admits and computes in order of arrival, and preempts the latest arrival."""

    def admission_rank(self, claim: Claim) -> Rank:
        """Priority, arrival, candidate."""
        return (claim.priority, claim.arrival, claim.candidate)

    def step_rank(self, claim: Claim) -> Rank:
        """The order of admission."""
        return self.admission_rank(claim)

    def victim_rank(self, claim: Claim) -> Rank:
        """The order of admission: the last to start is the first to yield."""
        return self.admission_rank(claim)
