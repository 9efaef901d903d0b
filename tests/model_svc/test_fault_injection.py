"""A process that dies on purpose dies of the request it is told to, and of no other."""

import os
import signal

import pytest
from support.engine_harness import Arithmetic, Harness, earlier, expected, spec

from chassis.errors import StartError
from model_svc.engine.messages import Start
from model_svc.fault_injection import (
    CRASH_AFTER_TOKENS,
    CRASH_ON_TOKEN,
    crash_on,
    with_faults,
)

DEADLY = 666
PROMPT = [1, 2, 3, 4, DEADLY]


class Killed(Exception):
    """What becomes of a test instead of the process."""


@pytest.fixture(autouse=True)
def _kill(monkeypatch):
    def kill(pid, signal_number):
        assert (pid, signal_number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr("os.kill", kill)


def harness(token=DEADLY, after=0):
    return Harness(
        budget=8,
        runner=lambda slots, rows, context: crash_on(
            token, after, Arithmetic(slots, rows, context)
        ),
    )


def test_it_dies_in_the_step_that_begins_the_deadly_prompt():
    h = harness()
    h.do(Start(spec(1, [DEADLY - 1, 0])))
    h.until(lambda: h.finished(1))
    h.do(Start(spec(2, PROMPT)))

    with pytest.raises(Killed):
        h.step()


def test_it_dies_once_the_request_has_so_many_tokens_and_has_told_them():
    h = harness(after=3)
    h.do(Start(spec(1, PROMPT)))

    with pytest.raises(Killed):
        h.idle()
    assert h.ids(1) == expected(PROMPT, 3)


def test_tokens_of_earlier_attempts_count():
    h = harness(after=3)
    h.do(Start(spec(1, PROMPT, attempt=2, progress={0: earlier(expected(PROMPT, 3))})))

    with pytest.raises(Killed):
        h.step()


def test_where_it_is_off_the_runner_is_left_as_it_is():
    runner = Arithmetic(1, 1, 1)
    assert crash_on(-1, 0, runner) is runner
    assert with_faults(runner, {}) is runner


def test_variables_switch_it_on():
    variables = {CRASH_ON_TOKEN: str(DEADLY), CRASH_AFTER_TOKENS: "3"}
    h = Harness(budget=8, runner=lambda *sizes: with_faults(Arithmetic(*sizes), variables))
    h.do(Start(spec(1, PROMPT)))

    with pytest.raises(Killed):
        h.idle()
    assert h.ids(1) == expected(PROMPT, 3)


def test_a_variable_that_is_no_number_is_named():
    with pytest.raises(StartError, match="TRIPTYCH_FAULT_CRASH_ON_TOKEN='x' is not"):
        with_faults(Arithmetic(1, 1, 1), {CRASH_ON_TOKEN: "x"})
