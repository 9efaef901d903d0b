"""The step loop with a model of arithmetic: what comes out never depends on what else ran."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine_harness import VOCAB, Harness, earlier, expected, spec

from model_svc.engine.messages import Forget, ForgetRouter, Quit, Resend, Start, Stop
from model_svc.sampling.params import SamplingParams
from protos.token_frame import LENGTH, NO_TOKEN, PROMPT, STOP


def test_a_request_gives_its_tokens_then_its_end():
    h = Harness()
    h.do(Start(spec(1, range(40), max_tokens=5)))
    h.until(lambda: h.finished(1))

    assert h.ids(1) == expected(range(40), 5)
    assert [row[2] for row in h.rows] == [0, 1, 2, 3, 4]
    assert [row[6] for row in h.rows] == [0, 0, 0, 0, LENGTH]


def test_candidates_share_the_prompt_and_draw_apart():
    h = Harness()
    h.do(Start(spec(1, [5, 6, 7], max_tokens=6, candidates=4)))
    h.until(lambda: len(h.finished(1)) == 4)
    h.idle()

    for candidate in range(4):
        assert h.ids(1, candidate) == expected([5, 6, 7], 6, candidate)
    assert h.pool.used_slots == 0


def test_a_stop_id_ends_a_candidate_but_not_before_min_tokens():
    prompt = [3, 4]
    stop = expected(prompt, 3)[2]
    h = Harness()
    h.do(Start(spec(1, prompt, stop_ids=frozenset({stop}))))
    patient = SamplingParams(seed=1, min_tokens=3)
    late = spec(2, prompt, stop_ids=frozenset({stop}), sampling=patient)
    h.do(Start(late))
    h.until(lambda: h.finished(1) and h.finished(2))

    assert h.ids(1) == expected(prompt, 3)
    assert len(h.ids(2)) > 3


def test_scoring_a_prompt_tells_each_of_its_tokens_once_and_draws_none():
    h = Harness(budget=8)
    h.do(Start(spec(1, range(20), max_tokens=0, prompt_logprobs=True)))
    h.until(lambda: h.finished(1))

    scored = [(row[2], row[3]) for row in h.rows if row[6] & PROMPT]
    assert scored == [(i, i) for i in range(20)]
    assert h.ids(1) == []


def test_nothing_to_draw_and_nothing_to_score_ends_at_once():
    h = Harness()
    h.do(Start(spec(1, [1, 2], max_tokens=0, candidates=2)))
    h.until(lambda: len(h.finished(1)) == 2)

    assert [row[6] for row in h.rows] == [LENGTH | NO_TOKEN] * 2


def test_a_resumed_candidate_goes_on_where_it_was():
    whole = expected([9, 9], 8)
    progress = {0: earlier(whole[:3])}
    h = Harness()
    h.do(Start(spec(1, [9, 9], attempt=2, progress=progress)))
    h.until(lambda: h.finished(1))

    assert h.ids(1) == whole[3:]
    assert {row[1] for row in h.rows} == {2}


@pytest.mark.parametrize("budget", [16, 300])
def test_resumed_candidates_hold_and_compute_their_prompt_once(budget):
    prompt, had = range(200), [5, 0, 17, 0]
    progress = {i: earlier(expected(prompt, count, i)) for i, count in enumerate(had)}
    h = Harness(slots=310, budget=budget)
    h.do(Start(spec(1, prompt, max_tokens=20, candidates=4, attempt=2, progress=progress)))
    h.idle()

    for candidate, count in enumerate(had):
        assert h.ids(1, candidate) == expected(prompt, 20, candidate)[count:]
    assert h.most_slots <= 200 + 4 * 20
    assert h.runner.tokens <= 200 + 4 * 20
    assert h.meter.preempted == 0


def test_a_candidate_finished_earlier_runs_no_more():
    progress = {0: earlier([1], finished=True)}
    h = Harness()
    h.do(Start(spec(1, [9], candidates=2, progress=progress)))
    h.until(lambda: h.finished(1))
    h.idle()

    assert {row[5] for row in h.rows} == {1}


def test_rows_are_sent_again_to_the_outlet_that_asks_and_for_the_right_attempt_only():
    h = Harness()
    h.do(Start(spec(1, [5], max_tokens=6, prompt_logprobs=True)))
    h.until(lambda: h.finished(1))
    h.idle()
    h.do(Resend(1, attempt=9, candidate=0, position=0, prompt_position=0, target=3))
    h.do(Resend(1, attempt=1, candidate=0, position=4, prompt_position=1, target=3))
    h.idle()

    report = h.reports[-1]
    assert report.target == 3
    assert report.frame.rows["position"].tolist() == [4, 5]


def test_rows_of_a_candidate_that_is_none_are_not_sent():
    h = Harness()
    h.do(Start(spec(1, [5])), Resend(1, 1, candidate=1, position=0, prompt_position=0, target=3))
    h.idle()

    assert {report.target for report in h.reports} == {None}
    assert h.finished(1)


@pytest.mark.parametrize(("stops", "flag"), [((), LENGTH), (expected([5], 3)[2:], STOP)])
def test_whoever_has_all_rows_and_asks_again_is_told_the_ending(stops, flag):
    h = Harness()
    h.do(Start(spec(1, [5], max_tokens=3, stop_ids=frozenset(stops))))
    h.until(lambda: h.finished(1))
    told = []
    for position in (2, 3):
        h.do(Resend(1, 1, candidate=0, position=position, prompt_position=0, target=3))
        h.idle()
        told += h.reports[-1].frame.rows[["position", "flags"]].tolist()

    assert told == [(2, flag), (3, flag | NO_TOKEN)]


def test_whoever_asks_for_more_than_there_is_yet_is_told_nothing():
    h = Harness()
    h.do(Start(spec(1, [5], max_tokens=300)))
    h.step()
    h.do(Resend(1, 1, candidate=0, position=1, prompt_position=0, target=3))
    h.step()

    assert {report.target for report in h.reports} == {None}


def test_rows_of_a_resumed_candidate_are_found_by_their_position():
    h = Harness()
    h.do(Start(spec(1, [5], max_tokens=8, progress={0: earlier(expected([5], 3))})))
    h.until(lambda: h.finished(1))
    h.do(Resend(1, attempt=1, candidate=0, position=5, prompt_position=0, target=3))
    h.idle()

    assert h.reports[-1].target == 3
    assert h.reports[-1].frame.rows["position"].tolist() == [5, 6, 7]


def test_a_prompt_computed_by_two_resumed_candidates_is_told_once():
    progress = {i: earlier(expected([4, 5, 6], 1, i)) for i in (0, 1)}
    h = Harness()
    h.do(Start(spec(1, [4, 5, 6], candidates=2, progress=progress, prompt_logprobs=True)))
    h.until(lambda: len(h.finished(1)) == 2)

    assert [row[2] for row in h.rows if row[6] & PROMPT] == [0, 1, 2]


def test_a_stopped_request_frees_its_slots_and_the_next_one_runs():
    h = Harness()
    h.do(Start(spec(1, range(30), max_tokens=400)))
    h.until(lambda: h.ids(1))
    h.do(Stop(1, None))
    h.idle()
    assert h.pool.used_slots == 0
    h.do(Start(spec(2, [1])))
    h.until(lambda: h.finished(2))

    assert h.ids(2) == expected([1], 8)


def test_stopping_one_candidate_leaves_the_others():
    h = Harness()
    h.do(Start(spec(1, [1, 2], max_tokens=50, candidates=2)))
    h.do(Stop(1, 0))
    h.until(lambda: h.finished(1))

    assert h.ids(1, 1) == expected([1, 2], 50, 1)
    assert not h.ids(1, 0)


def test_a_router_that_leaves_takes_its_requests_with_it():
    mine, other = (5 << 32) | 1, (6 << 32) | 1
    h = Harness()
    h.do(Start(spec(mine, [1], max_tokens=400)))
    h.do(Start(spec(other, [1], max_tokens=20)))
    h.do(ForgetRouter(5))
    h.until(lambda: h.finished(other))
    h.idle()

    assert not h.finished(mine)
    assert h.pool.used_slots == 0


def test_the_load_counts_the_starts_it_includes():
    h = Harness()
    for i in range(3):
        h.do(Start(spec((5 << 32) | i, [1])))
    h.idle()
    h.until(lambda: h.loads[-1].starts.get(5) == 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 30),
            st.integers(1, 30),
            st.lists(st.integers(0, 29), min_size=1, max_size=3),
        ),
        min_size=2,
        max_size=12,
    )
)
def test_a_pool_too_small_for_all_changes_no_token(requests):
    h = Harness(slots=64, rows=6, budget=12)
    left = {}
    for handle, (length, max_tokens, had) in enumerate(requests):
        prompt = [(handle * 13 + i) % VOCAB for i in range(length)]
        progress = {}
        for index, count in enumerate(had):
            whole = expected(prompt, max_tokens, index)
            progress[index] = earlier(whole[: min(count, max_tokens - 1)])
            left[handle, index] = whole[len(progress[index].ids) :]
        asked = spec(handle, prompt, max_tokens, candidates=len(had), progress=progress)
        h.do(Start(asked))
    h.idle()
    h.do(*(Forget(handle) for handle in range(len(requests))))

    assert {place: h.ids(*place) for place in left} == left
    assert h.pool.used_slots == 0


def test_the_small_pool_of_the_test_above_does_put_sequences_back():
    h = Harness(slots=64, rows=6, budget=12)
    for handle in range(6):
        h.do(Start(spec(handle, [handle] * 5, max_tokens=50)))
    h.until(lambda: all(h.finished(handle) for handle in range(6)))

    assert h.meter.preempted > 0


def test_it_runs_one_step_at_a_time_and_never_waits():
    h = Harness()
    assert not h.engine.advance()
    h.do(Start(spec(1, [1], max_tokens=3)))

    assert [h.engine.advance() for _ in range(4)] == [True, True, True, False]
    assert h.runner.steps == 3
    assert h.finished(1)


def test_it_takes_in_all_commands_before_a_step():
    h = Harness()
    h.do(Start(spec(1, [1])), Stop(1, None), Start(spec(2, [2])), Start(spec(3, [3])))

    h.step()
    assert [row[0] for row in h.rows] == [2, 3]


def test_on_a_thread_of_its_own_it_sleeps_until_it_is_told_something():
    h = Harness()
    ended = threading.Event()
    h.engine._report = lambda report: report.frame and ended.set()
    thread = threading.Thread(target=h.engine.run)
    thread.start()
    for handle in (1, 2):
        h.do(Start(spec(handle, [1], max_tokens=1)))
        assert ended.wait(10)
        ended.clear()
    h.do(Quit())
    thread.join(10)

    assert not thread.is_alive()
    assert h.runner.steps == 2


def test_told_to_quit_it_runs_no_further_step():
    h = Harness()
    h.do(Start(spec(1, [1])), Quit())

    assert not h.step()
    assert h.runner.steps == 0


def test_a_failing_step_ends_the_loop_with_its_error():
    h = Harness()
    h.runner.launch = lambda step: 1 / 0
    h.do(Start(spec(1, [1])))

    with pytest.raises(ZeroDivisionError):
        h.engine.run()
