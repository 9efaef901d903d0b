"""First come, first served: three answers that agree."""

from chassis.policies.first_come import FirstCome
from chassis.policies.policy import Claim

CLAIMS = [
    Claim(priority=-1, arrival=9, prompt_tokens=500),
    Claim(priority=0, arrival=1, prompt_tokens=900),
    Claim(priority=0, arrival=1, candidate=1, prompt_tokens=900),
    Claim(priority=0, arrival=2, prompt_tokens=1),
    Claim(priority=3, arrival=0, prompt_tokens=1),
]


def test_urgent_ones_go_first_then_early_ones_whatever_their_length():
    policy = FirstCome()

    for rank in (policy.admission_rank, policy.step_rank, policy.victim_rank):
        assert sorted([CLAIMS[i] for i in (3, 1, 4, 0, 2)], key=rank) == CLAIMS
