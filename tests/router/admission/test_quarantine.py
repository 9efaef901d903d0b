from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from router.admission.quarantine import (
    MOST,
    UNSEEN_TOKENS,
    CrashRecord,
    EngineCrashes,
    Isolation,
    Standing,
)


@dataclass
class Output:
    ids: list[int] = field(default_factory=list)
    finished: bool = False


class Engine:
    """The crashes of an engine that comes back as another process after each."""

    def __init__(self) -> None:
        self.crashes = EngineCrashes()
        self.incarnation = 1
        self.crashes.back(1)

    def crash(self, *running: CrashRecord, suspect: CrashRecord | None = None) -> int:
        self.crashes.lost(running, suspect)
        self.incarnation += 1
        return self.crashes.back(self.incarnation)


def record(outputs: int = 1) -> tuple[CrashRecord, list[Output]]:
    candidates = [Output() for _ in range(outputs)]
    return CrashRecord(candidates), candidates


def test_two_crashes_make_a_suspect():
    engine, (one, _) = Engine(), record()
    standings = []
    for _ in range(3):
        standings.append(one.standing)
        assert engine.crash(one, record()[0]) == 2
    assert standings == [Standing.CLEAR, Standing.CLEAR, Standing.SUSPECT]


def test_a_suspect_is_cleared_once_every_candidate_has_passed_the_crash():
    engine, (one, outputs) = Engine(), record(outputs=3)
    outputs[0].ids = [1, 2]
    for _ in range(2):
        engine.crash(one)
    outputs[0].ids += [0] * (UNSEEN_TOKENS + 1)
    outputs[1].ids += [0] * UNSEEN_TOKENS
    outputs[2].finished = True
    assert one.standing is Standing.SUSPECT
    outputs[1].ids += [0]
    assert one.standing is Standing.CLEARED


def test_the_only_suspect_of_a_crash_is_isolated_and_the_others_are_not():
    engine, (one, _), (other, _) = Engine(), record(), record()
    engine.crash(one, other)
    engine.crash(one, other, suspect=one)
    assert (one.standing, other.standing) == (Standing.ISOLATED, Standing.SUSPECT)


def test_the_third_crash_is_blamed_on_a_request_that_was_alone_and_clears_the_others():
    engine, (one, _), (other, _) = Engine(), record(), record()
    engine.crash(one, other)
    engine.crash(one, other)
    engine.crash(one)
    assert (one.blamed_for, other.blamed_for) == (3, 0)
    assert other.standing is Standing.CLEAR


def test_a_request_in_company_is_blamed_for_the_eighth_crash_only():
    engine, (one, _) = Engine(), record()
    for crash in range(MOST):
        assert one.blamed_for == 0
        assert one.blamable == (crash >= MOST)
        engine.crash(one, record()[0])
    assert one.blamed_for == MOST


def test_the_same_incarnation_has_not_crashed():
    engine, (one, _) = Engine(), record()
    for _ in range(5):
        engine.crashes.lost([one], None)
        assert engine.crashes.back(engine.incarnation) == 0
    assert (one.crashes, one.blamed_for) == ([], 0)


def test_nobody_is_blamed_before_the_crash_is_confirmed():
    engine, (one, _) = Engine(), record()
    for _ in range(2):
        engine.crash(one)
    engine.crashes.lost([one], None)
    one.blame()
    assert one.blamable
    assert not one.blamed_for
    engine.crashes.stays_away()
    one.blame()
    assert one.blamed_for == 3


@pytest.mark.parametrize(
    ("running", "standing", "starts"),
    [
        ([], Standing.ISOLATED, True),
        ([Standing.CLEARED], Standing.ISOLATED, False),
        ([Standing.CLEARED], Standing.SUSPECT, True),
        ([Standing.CLEARED, Standing.CLEAR], Standing.SUSPECT, False),
        ([Standing.CLEARED, Standing.CLEAR], Standing.CLEAR, True),
        ([Standing.SUSPECT], Standing.CLEAR, False),
        ([Standing.ISOLATED], Standing.CLEARED, False),
    ],
)
def test_the_company_that_a_request_may_start_in(running, standing, starts):
    isolation: Isolation[int] = Isolation()
    for key, other in enumerate(running):
        isolation.enter(key, other)
    assert isolation.may_start(standing) == starts


def test_a_cleared_suspect_keeps_nobody_out():
    isolation: Isolation[int] = Isolation()
    isolation.enter(1, Standing.SUSPECT)
    assert isolation.holds(1)
    isolation.clear(1)
    assert not isolation.holds(1)
    assert isolation.may_start(Standing.SUSPECT)
