"""A block is bounded in CPU time and memory, and leaves the process as it was."""

from __future__ import annotations

import resource
import signal

import pytest

from tokenizer_svc.sandbox import Sandbox, TookTooLong, bounded

MIB = 1 << 20


class LoopsInTheEnd:
    def __del__(self) -> None:
        while True:  # what is raised here is lost
            pass


def test_time_is_bounded() -> None:
    with pytest.raises(TookTooLong), bounded(0.05, 64 * MIB):
        while True:
            pass


def test_memory_is_bounded_beyond_what_the_process_has() -> None:
    held = bytearray(128 * MIB)
    with bounded(5, 64 * MIB):
        assert len(bytearray(32 * MIB)) < len(held)
    with pytest.raises(MemoryError), bounded(5, 64 * MIB):
        bytearray(128 * MIB)


def test_the_process_is_left_as_it_was() -> None:
    before = (signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS))
    for failure in (TookTooLong, MemoryError, ValueError):
        with pytest.raises(failure), bounded(5, 64 * MIB):
            raise failure
    after = (signal.getsignal(signal.SIGVTALRM), resource.getrlimit(resource.RLIMIT_AS))
    assert after == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_lost_comes_again() -> None:
    with pytest.raises(TookTooLong), bounded(0.05, 64 * MIB):
        looping = LoopsInTheEnd()
        del looping
        while True:
            pass


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("2 ** 10 * 3", "3072"),
        ("'ab' * 3", "ababab"),
        ("2 ** 0.5 * 2 ** 0.5 > 2", "True"),
        ("10 ** -2", "0.01"),
        ("2.345 | round(2, 'ceil')", "2.35"),
        ("2.5 | round", "2.0"),
        ("'<é>' | tojson", '"<é>"'),
    ],
)
def test_ordinary_arithmetic_is_as_ever(expression: str, written: str) -> None:
    assert Sandbox().from_string("{{ " + expression + " }}").render() == written
