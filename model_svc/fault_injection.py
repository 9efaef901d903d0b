"""A model process that kills itself at a chosen prompt: only for tests of recovery.

Variables of the environment switch it on. They are no settings of the service, so that no operator
finds them; without them the runner stays as it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from chassis.errors import StartError
from model_svc.engine.loop import Runner
from model_svc.engine.request import Candidate
from model_svc.engine.runner import StepResult
from model_svc.scheduling.scheduler import Plan
from model_svc.scheduling.scheduler import Sequence as Scheduled


@dataclass(frozen=True, slots=True)
class _Deadly:
    """A runner that kills its process instead of running a step of a deadly request.

    Attributes:
        runner: what computes all other steps.
        token: a request is deadly if its prompt holds this id
        after: and one of its candidates in the step has as many output tokens.
    """

    runner: Runner
    token: int
    after: int

    def run(self, plan: Plan, candidates: Mapping[Scheduled, Candidate]) -> StepResult:
        """Compute `plan`, or die of it."""
        for chunk in plan.chunks:
            candidate = candidates[chunk.sequence]
            if len(candidate.output) >= self.after and self.token in candidate.request.spec.prompt:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.runner.run(plan, candidates)


CRASH_ON_TOKEN = "TRIPTYCH_FAULT_CRASH_ON_TOKEN"
CRASH_AFTER_TOKENS = "TRIPTYCH_FAULT_CRASH_AFTER_TOKENS"


def with_faults(runner: Runner, environment: Mapping[str, str] = os.environ) -> Runner:
    """The runner, with the faults that `environment` asks for.

    Raises:
        StartError: a variable is not a whole number.
    """
    token = _number(environment, CRASH_ON_TOKEN, -1)
    return crash_on(token, _number(environment, CRASH_AFTER_TOKENS, 0), runner)


def _number(environment: Mapping[str, str], name: str, absent: int) -> int:
    value = environment.get(name)
    if value is None:
        return absent
    try:
        return int(value)
    except ValueError:
        raise StartError(f"{name}={value!r} is not a whole number") from None


def crash_on(token: int, after: int, runner: Runner) -> Runner:
    """Make `runner` kill its process when it computes a request with `token` in its prompt.

    Args:
        token: an id; negative: never, and `runner` itself is returned.
        after: only once the request has so many output tokens, those of earlier attempts included.
        runner: what computes.
    """
    return runner if token < 0 else _Deadly(runner, token, after)
