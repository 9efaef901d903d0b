"""Every policy lets every sequence progress, and the scheduler asks it all three questions.

Progress is measured: a long prompt waits among a stream of short ones that never ends.
"""

import pytest

from chassis.policies.first_come import FirstCome
from chassis.policies.policy import Claim
from chassis.policies.registry import DEFAULT_POLICY, POLICIES
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.sequence import Prefix, Sequence
from model_svc.scheduling.slot_pool import SlotPool

LONG, SHORT = 24, 4
SLOTS, ROWS, BUDGET = 32, 4, 8
OUTPUT = 8
STEPS = 400


class ShortestFirst:
    """Shortest prompt first without ageing: starves long prompts."""

    def admission_rank(self, claim):
        return (claim.priority, claim.prompt_tokens, claim.arrival, claim.candidate)

    step_rank = victim_rank = admission_rank


class ShortestFirstAged(ShortestFirst):
    """Shortest prompt first, where each later arrival weighs as much as a token."""

    def admission_rank(self, claim):
        return (claim.priority, claim.prompt_tokens + claim.arrival, claim.arrival, claim.candidate)

    step_rank = victim_rank = admission_rank


class LongestVictim(FirstCome):
    """First come, but the longest prompt is preempted first."""

    def victim_rank(self, claim):
        return (claim.prompt_tokens, claim.arrival)


def sequence(arrival, prompt):
    claim = Claim(0, arrival, 0, prompt, OUTPUT)
    return Sequence(claim, prompt, Prefix(prompt), limit=prompt + OUTPUT)


def scheduler_of(policy):
    return Scheduler(SlotPool(SLOTS), rows=ROWS, context=64, max_batch_tokens=BUDGET, policy=policy)


def unserved(policy):
    """Long prompts that have not ended `STEPS` steps after their arrival, beside short ones."""
    scheduler = scheduler_of(policy)
    arrivals, waiting_longs, late = 0, {}, []
    for number in range(3 * STEPS):
        if number % 2 == 0:
            scheduler.add(sequence(arrivals, SHORT))
            arrivals += 1
        if number % 50 == 0 and number < STEPS:
            long = sequence(arrivals, LONG)
            scheduler.add(long)
            waiting_longs[long] = number
            arrivals += 1
        plan = scheduler.plan()
        scheduler.settle(plan)
        for one in plan.drawing:
            if one.known == one.prefix.tokens + OUTPUT:
                scheduler.remove(one)
                waiting_longs.pop(one, None)
        late += [one for one, begin in waiting_longs.items() if number - begin == STEPS]
    return len(late)


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_starves_a_long_prompt(name):
    assert unserved(POLICIES[name]) == 0, (
        f"{name} starves prompts of {LONG} tokens beside ever new ones of {SHORT}: "
        "each of its ranks needs ageing, such as a term that grows with `arrival`"
    )


def test_the_measure_of_starvation_finds_a_starving_policy():
    assert unserved(ShortestFirst()) > 0


def test_ageing_cures_a_starving_policy():
    assert unserved(ShortestFirstAged()) == 0


def test_the_default_policy_is_registered():
    assert DEFAULT_POLICY in POLICIES


def test_the_waiting_are_admitted_in_the_order_of_the_policy():
    scheduler = scheduler_of(ShortestFirst())
    sequences = [sequence(arrival, prompt) for arrival, prompt in enumerate((6, 2, 4))]
    for one in sequences:
        scheduler.add(one)

    plan = scheduler.plan()

    assert [one.claim.prompt_tokens for one in plan.sequences] == [2, 4, 6]


def test_the_victim_is_the_policys_choice_but_never_the_first_in_step_order():
    scheduler = scheduler_of(LongestVictim())
    first, long, short = (sequence(i, prompt) for i, prompt in enumerate((10, 9, 2)))
    preempted = []
    for one in (first, long, short):
        scheduler.add(one)
        for _ in range(2):
            plan = scheduler.plan()
            scheduler.settle(plan)
            preempted += plan.preempted
    while not preempted:
        plan = scheduler.plan()
        scheduler.settle(plan)
        preempted += plan.preempted

    assert preempted == [long]
