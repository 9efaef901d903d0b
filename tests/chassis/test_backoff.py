from __future__ import annotations

from chassis.backoff import Backoff


def test_pauses_double_up_to_the_bound():
    pauses = Backoff(0.5, 3.0)
    assert [pauses.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_a_success_they_begin_anew():
    pauses = Backoff(0.5, 3.0)
    for _ in range(4):
        pauses.next_s()
    pauses.reset()
    assert [pauses.next_s() for _ in range(2)] == [0.5, 1.0]
