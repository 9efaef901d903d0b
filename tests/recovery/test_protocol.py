"""Whatever happens between router, model and detokenizer, clients see an undisturbed run.

The three run their own code in one thread, over links that hold, lose and cut, on a clock that
stands still; see `simulated_deployment`. `TRIPTYCH_SCHEDULES` says how many schedules are tried.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from simulated_deployment import deployed
from simulated_requests import KINDS
from simulated_schedules import Schedule, schedules

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
@given(schedules())
def test_no_schedule_is_noticed_by_a_client(schedule: Schedule) -> None:
    schedule.run()
