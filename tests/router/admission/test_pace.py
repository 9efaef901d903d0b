from __future__ import annotations

import pytest

from router.admission.pace import Pace


def run(pace: Pace, rows: int, step_s: float, *, steps: int = 40, prompts: int = 0) -> None:
    """Have `pace` see `steps` frames, each of which brings `prompts` tokens of new prompts."""
    for step in range(steps + 1):
        pace.frame(step * step_s, rows, rows, prompts)
    pace.pause()


def test_nothing_is_known_of_a_replica_that_has_not_run():
    pace = Pace()

    assert (pace.known, pace.rate, pace.enough_rows, pace.least_token_s(8)) == (False, 0, 0, 0)


def test_the_speed_of_as_many_rows_is_what_was_measured():
    pace = Pace()
    run(pace, 8, 0.02)

    assert pace.token_s(8) == pytest.approx(0.02)
    assert pace.rate == pytest.approx(400)


def test_between_two_measured_numbers_of_rows_the_time_is_between_theirs():
    pace = Pace()
    run(pace, 64, 0.04)
    run(pace, 8, 0.04)
    run(pace, 8, 0.01, steps=4000)

    assert pace.token_s(8) == pytest.approx(0.01, rel=0.05)
    assert pace.token_s(8) < pace.token_s(32) < pace.token_s(64)


def test_more_rows_than_were_measured_run_no_faster_in_sum_nor_slower_than_free():
    pace = Pace()
    run(pace, 8, 0.02)

    assert pace.token_s(32) == pytest.approx(4 * 0.02)
    assert pace.least_token_s(32) == pytest.approx(0.02)


def test_one_row_more_than_was_measured_may_be_tried():
    pace = Pace()
    run(pace, 1, 0.02)

    assert pace.token_s(2) == pytest.approx(0.02)


def test_frames_that_were_held_up_and_come_in_a_cluster_count_for_what_they_are():
    pace, now = Pace(), 0.0
    for _ in range(20):
        now += 0.5
        for _ in range(25):  # of 20 ms each
            now += 1e-4
            pace.frame(now, 8, 8, 0)

    assert pace.token_s(8) == pytest.approx(0.02, rel=0.1)


def test_a_replica_that_has_become_slow_is_slow_at_other_numbers_of_rows_too():
    pace = Pace()
    run(pace, 64, 0.04)
    run(pace, 8, 0.01)
    before = pace.token_s(64)
    run(pace, 8, 0.04, steps=400)

    assert pace.token_s(64) > 1.3 * before


def test_fewer_rows_are_no_slower_than_more_were():
    pace = Pace()
    run(pace, 1, 5.0, steps=4)  # something else had the machine
    run(pace, 64, 0.04, steps=400)

    assert pace.token_s(1) == pytest.approx(0.04, rel=0.2)


def test_time_in_which_nothing_ran_is_not_counted():
    pace = Pace()
    run(pace, 8, 0.02)
    pace.frame(1000.0, 8, 8, 0)
    for step in range(1, 40):
        pace.frame(1000.0 + step * 0.02, 8, 8, 0)

    assert pace.token_s(8) == pytest.approx(0.02)


def test_tokens_that_come_several_at_a_time_are_counted():
    pace = Pace()
    for step in range(40):
        pace.frame(step * 0.02, 8, 4 * 8, 0)

    assert pace.token_s(8) == pytest.approx(0.005)


def test_the_time_of_long_prompts_is_not_taken_for_that_of_outputs():
    pace = Pace()
    run(pace, 8, 0.02)
    run(pace, 8, 0.02 + 1000 * 1e-4, prompts=1000)

    assert pace.token_s(8) == pytest.approx(0.02)
    assert pace.prompt_s == pytest.approx(1e-4)


def test_what_was_measured_amid_prompts_gives_way_to_what_was_not():
    pace = Pace()
    run(pace, 8, 0.02)
    run(pace, 60, 0.5, prompts=200)
    run(pace, 64, 0.04, steps=4)

    assert pace.token_s(60) < 0.05


def test_enough_rows_are_those_that_come_near_the_best_rate():
    pace = Pace()
    for rows in (1, 8, 64, 128):
        run(pace, rows, 0.02 + 0.001 * rows, steps=400)

    assert pace.enough_rows in (64, 128)


def test_outputs_that_cannot_stop_have_all_their_tokens():
    assert Pace().outputs(300, may_stop=False) == 300
    assert Pace().likely_outputs(300, may_stop=False) == 300


def test_outputs_that_may_stop_are_as_long_as_those_before():
    pace = Pace()
    for second in range(200):
        pace.frame(second, 1, 50, open_tokens=50)
        pace.ended(stopped=True)

    assert pace.outputs(4000, may_stop=True) == pytest.approx(50, rel=0.1)
    assert pace.outputs(10, may_stop=True) == pytest.approx(9, rel=0.1)
    assert pace.likely_outputs(4000, may_stop=True) == pytest.approx(100, rel=0.1)


def test_outputs_that_go_on_tell_that_outputs_are_long():
    pace = Pace()
    before = pace.outputs(10_000, may_stop=True)
    pace.frame(0.0, 100, 1000, open_tokens=1000)

    assert pace.outputs(10_000, may_stop=True) > 5 * before


def test_outputs_that_were_cut_tell_that_outputs_are_long():
    pace = Pace()
    for second in range(200):
        pace.frame(second, 1, 50, open_tokens=50)
        pace.ended(stopped=second % 4 == 0)

    assert pace.outputs(10_000, may_stop=True) == pytest.approx(200, rel=0.2)


def test_the_margin_grows_while_many_miss_their_deadlines_and_shrinks_when_few_do():
    pace = Pace()
    least = pace.margin
    for _ in range(20):
        pace.deadline(met=False)
    grown = pace.margin
    for _ in range(200):
        pace.deadline(met=True)

    assert grown > least + 0.1
    assert pace.margin == pytest.approx(least, abs=0.02)
