"""When a call is made again, by a clock that the tests turn."""

import pytest

from triptych.client import retry
from triptych.client.retry import Tries


class Clock:
    """Shows what it was last set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock, *, timeout=None, retry_s=retry.RETRY_S, draw=0.0):
    return Tries(timeout, retry_s, clock=clock, draw=lambda: draw)


def run_out(clock, made: Tries, *, try_s: float = 0.0) -> list[float]:
    """Fail each try after `try_s` seconds, wait out each pause; the pauses."""
    waited: list[float] = []
    made.begin()
    clock.now += try_s
    while (pause_s := made.pause()) is not None:
        waited.append(pause_s)
        clock.now += pause_s + try_s
        made.begin()
    return waited


def test_pauses_double_up_to_a_second_and_the_last_ends_with_the_time_to_retry(clock):
    pauses = run_out(clock, make(clock, retry_s=10))

    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, *[1.0] * 8, 0.5])
    assert sum(pauses) == pytest.approx(10)


@pytest.mark.parametrize(("draw", "first"), [(0.0, 0.1), (0.5, 0.075), (0.999, 0.05)])
def test_chance_takes_up_to_half_of_a_pause(clock, draw, first):
    assert make(clock, draw=draw).pause() == pytest.approx(first, abs=1e-4)


def test_chance_is_drawn_anew_for_each_pause(clock):
    draws = iter([0.0, 0.5])
    made = Tries(None, 10, clock=clock, draw=draws.__next__)

    assert [made.pause(), made.pause()] == pytest.approx([0.1, 0.15])


def test_without_time_to_retry_there_is_one_try(clock):
    made = make(clock, retry_s=0)
    made.begin()

    assert made.pause() is None
    assert made.made == 1


@pytest.mark.parametrize("retry_s", [-1.0, float("nan")])
def test_a_time_to_retry_that_is_none_is_no_retry(clock, retry_s):
    assert make(clock, retry_s=retry_s).pause() is None


def test_time_to_retry_counts_from_the_first_failure_however_long_that_took(clock):
    made = make(clock, retry_s=1)
    made.begin()
    clock.now += 3600

    assert made.pause() == pytest.approx(0.1)


def test_a_slow_try_uses_up_the_time_to_retry(clock):
    made = make(clock, retry_s=10)

    assert run_out(clock, made, try_s=11.0) == pytest.approx([0.1])
    assert made.made == 2


def test_tries_are_counted(clock):
    made = make(clock, retry_s=1)

    pauses = run_out(clock, made)

    assert made.made == len(pauses) + 1


def test_each_try_may_take_what_is_left_of_the_timeout(clock):
    made = make(clock, timeout=5)

    assert made.begin() == 5
    clock.now += 2
    assert made.begin() == 3
    assert made.left_s == 3


def test_without_a_timeout_a_try_may_take_for_ever(clock):
    made = make(clock)

    assert made.begin() is None
    assert made.left_s is None


def test_a_pause_ends_with_the_timeout(clock):
    made = make(clock, timeout=1.25)
    made.begin()
    clock.now += 1.2

    assert made.pause() == pytest.approx(0.05)
    clock.now += 1
    assert made.pause() == 0


def test_the_server_may_ask_for_a_longer_pause(clock):
    made = make(clock, retry_s=10)

    assert made.pause(advised_s=2.0) == pytest.approx(2.1)
    assert made.pause(advised_s=60.0) == 10


def test_time_to_retry_without_end_is_possible(clock):
    made = make(clock, retry_s=float("inf"))

    pauses = [made.pause() for _ in range(2000)]

    assert pauses[-1] == retry.MOST_PAUSE_S


@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf")])
def test_a_timeout_that_never_passes_is_no_limit(timeout):
    tries = Tries(timeout, 1.0)

    assert tries.begin() is None
