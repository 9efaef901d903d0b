"""The queue admits in the order of its policy, and no policy starves a large request."""

import pytest

from chassis.policies.first_come import FirstCome
from chassis.policies.registry import POLICIES
from router.admission.demand import Demand
from router.admission.ledger import Ledger
from router.admission.queue import AdmissionQueue

LONG, SHORT = 600, 100
STEPS = 300


class ShortestFirst(FirstCome):
    """Shortest prompt first without ageing: starves long prompts."""

    def admission_rank(self, claim):
        return (claim.priority, claim.prompt_tokens, claim.arrival)


def steps_until_admitted(policy):
    """Steps that a large request waits beside small ones that never cease; None: all `STEPS`."""
    queue, ledger = AdmissionQueue(4 * STEPS, policy), Ledger(1000, 4)
    running = []
    large = None
    for step in range(STEPS):
        for _ in range(2):
            queue.line_up(queue.arrive(0), Demand.fresh(SHORT, 1, 100))
        if step == 10:
            large = queue.arrive(0)
            queue.line_up(large, Demand.fresh(LONG, 1, 100))
        running += [ticket for ticket, _ in queue.admit({"replica": ledger})]
        if large in running:
            return step
        for ticket in running[:2]:
            ledger.leave(ticket)
        del running[:2]
    return None


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_starves_a_large_request(name):
    assert steps_until_admitted(POLICIES[name]) is not None, (
        f"{name} starves a request of {LONG} tokens beside ever new ones of {SHORT}: "
        "its admission_rank needs ageing, such as a term that grows with `arrival`"
    )


def test_the_measure_of_starvation_finds_a_starving_policy():
    assert steps_until_admitted(ShortestFirst()) is None


def test_requests_are_admitted_in_the_order_of_the_policy():
    queue = AdmissionQueue(8, ShortestFirst())
    tickets = {size: queue.arrive(0) for size in (300, 100, 200)}
    for size, ticket in tickets.items():
        queue.line_up(ticket, Demand.fresh(size, 1, 1))

    admitted = [ticket for ticket, _ in queue.admit({"replica": Ledger(1000, 8)})]

    assert admitted == [tickets[size] for size in (100, 200, 300)]
