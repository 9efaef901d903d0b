"""Whatever happens between router, model and detokenizer, clients see an undisturbed run.

The three run their own code in one thread, over links that hold, lose and cut, on a clock that
stands still; see `simulated_deployment`. `TRIPTYCH_SCHEDULES` says how many schedules are tried.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from support.simulation.deployment import deployed
from support.simulation.requests import KINDS
from support.simulation.schedules import (
    Cut,
    Flow,
    Kill,
    Leave,
    Schedule,
    Stall,
    Start,
    Submit,
    Wait,
    schedules,
)

# A link to one replica is lost while another tells that its model had crashed: not a third crash.
LOST_WHILE_ANOTHER_IS_JUDGED = Schedule(
    replicas=2,
    actions=[
        Submit("candidates", 0),
        Submit("deadly", 0),
        Kill("model", 1),
        Kill("model", 0),
        Start("model", 0),
        Stall("run1"),
        Wait(0.06),
        Leave(0),
        Cut("run0", "arrives"),
        Flow("run1"),
        Start("model", 1),
    ],
)
SCHEDULES = int(os.environ.get("TRIPTYCH_SCHEDULES", "2000"))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_undisturbed_a_request_comes_to_what_it_must(kind: str, shared: bool) -> None:
    with deployed(shared=shared) as deployment:
        deployment.submit(kind, seed=1)
        deployment.heal()
        deployment.check_all_is_given_back()


@pytest.mark.timeout(1200)  # on a busy machine
@settings(max_examples=SCHEDULES, suppress_health_check=list(HealthCheck))
@example(LOST_WHILE_ANOTHER_IS_JUDGED)
@given(schedules())
def test_no_schedule_is_noticed_by_a_client(schedule: Schedule) -> None:
    schedule.run()
