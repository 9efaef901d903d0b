"""A model process that kills itself at a chosen prompt: only for tests of recovery.

Variables of the environment switch it on. They are no settings of the service, so that no operator
finds them; without them the runner stays as it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from chassis.errors import StartError
from model_svc.engine.runner import Runner
from model_svc.scheduling.step import StepInput, StepOutput


class _Deadly:
    """A runner that kills its process instead of running a step of a deadly request."""

    def __init__(self, runner: Runner, token: int, after: int) -> None:
        """Call a request deadly if its prompt holds `token`, once it has `after` output tokens."""
        self.depth = runner.depth
        self._runner = runner
        self._token = token
        self._after = after
        self._outputs: dict[int, int] = {}  # row of a deadly request → its output tokens

    def launch(self, step: StepInput) -> object:
        """Launch `step`, or die of it."""
        for one in step.admissions:
            self._outputs.pop(one.row, None)
            if self._token in one.prompt:
                self._outputs[one.row] = len(one.output)
        for row in step.chunks.rows.tolist():
            if self._outputs.get(row, -1) >= self._after:
                os.kill(os.getpid(), signal.SIGKILL)
        for row in step.chunks.draw_rows.tolist():
            if row in self._outputs:
                self._outputs[row] += 1
        return self._runner.launch(step)

    def collect(self, ticket: object) -> StepOutput:
        """The output of a step that killed nobody."""
        return self._runner.collect(ticket)


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
