"""How long a service that ended waits for its next start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.supervisor.backoff import MOST_S, SETTLED_S, RestartBackoff


def waits(*lives):
    backoff = RestartBackoff()
    return [backoff.after(lived_s) for lived_s in lives]


def test_the_first_restart_is_at_once_and_each_further_one_waits_twice_as_long():
    assert waits(0, 0, 0, 0, 0) == pytest.approx([0, 0.1, 0.2, 0.4, 0.8])


def test_no_wait_is_longer_than_the_bound():
    assert waits(*[0.0] * 20)[-5:] == [MOST_S] * 5


def test_one_that_had_settled_is_started_at_once_and_counted_anew():
    assert waits(0, 0, 0, SETTLED_S, 0, 0) == pytest.approx([0, 0.1, 0.2, 0, 0.1, 0.2])


def test_a_life_a_little_shorter_is_not_settled():
    assert waits(0, SETTLED_S - 0.01) == pytest.approx([0, 0.1])


@given(st.lists(st.floats(0, 2 * SETTLED_S)))
def test_a_wait_never_falls_but_after_a_settled_life(lives):
    told = waits(*lives)
    for lived_s, before, wait in zip(lives[1:], told, told[1:], strict=False):
        assert wait == 0 if lived_s >= SETTLED_S else wait > 0 and wait >= before
