"""What is said of rounds."""

import pytest

from bench.faults import report
from bench.faults.clients.answers import of_completion
from bench.faults.clients.calls import Outcome
from bench.faults.clients.workload import Case
from bench.faults.deployment.counters import rises
from bench.faults.results import SLACK_S, Result
from triptych.client import Options
from triptych.client.results import CandidateText, Completion, FinishReason, Usage

ABOUT = {"date": "2026-01-02", "machine": "a machine", "command": "a command", "took_s": 61.2}


def answer(text):
    candidate = CandidateText(0, text, finish_reason=FinishReason.LENGTH)
    return of_completion(Completion("id", (candidate,), Usage(1, 1, 0)))


def outcome(name, text=None):
    case = Case(name, "text", Options())
    return Outcome(case, 0.0, answer=answer(text) if text else None, failure="GONE")


def result(**figures):
    return Result("kill model", "one replica", 0.5, **figures)


@pytest.fixture
def judged():
    """One answer is right, one is another, one is missing."""
    made = result()
    expected = {name: answer("text") for name in ("same", "other", "none")}
    made.judge_answers(
        [outcome("same", "text"), outcome("other", "tent"), outcome("none")], expected
    )
    return made


def test_a_missing_answer_is_lost_and_another_is_changed(judged):
    assert (judged.requests, judged.lost, judged.changed) == (3, 1, 1)
    assert not judged.good
    assert judged.problems == [
        "other: changed: candidate 0: text: from 2 on (of 4 and 4) 'nt', not 'xt'",
        "none: lost: GONE",
    ]


def test_nothing_is_changed_where_nothing_is_expected_yet():
    made = result()
    made.judge_answers([outcome("any", "text")], {})

    assert made.good


def test_a_pause_may_last_from_the_first_hit_to_the_last_and_a_load_longer():
    made = result(pause_s=5.0)
    made.judge_loads([10.0, 10.5, 12.0], [1.0, 1.5], usual_s=9.0)

    assert made.limit_s == pytest.approx(2.0 + 1.5 + SLACK_S)
    assert not made.late
    made.pause_s = 5.6
    assert made.late


def test_where_no_model_loaded_its_usual_time_counts():
    made = result()
    made.judge_loads([10.0], [], usual_s=1.5)

    assert made.limit_s == pytest.approx(1.5 + SLACK_S)


def test_the_page_has_a_row_for_each_round_the_sums_and_what_went_wrong(judged):
    undisturbed = Result("undisturbed", "one replica", 0.3, requests=32)
    late = result(requests=32, in_flight=20, pause_s=4.0, limit_s=3.5)
    late.counters = {"resubmitted": 7.0, "fenced rows": 2.0, "fenced deltas": 1.0}

    page = report.markdown(ABOUT, [undisturbed, late, judged])

    assert "2 rounds: 35 requests, 20 running at a fault, 1 lost, 1 changed" in page
    assert "1 rounds not as promised, 1 paused longer" in page
    assert "| kill model | 32 | 20 | 0 | 0 | 0 | 0 | 4.00 ! | 3.50 | 0.00 | 0.00 | 7 | 3 |" in page
    assert "- none: lost: GONE" in page


def test_counters_of_a_process_that_died_begin_anew():
    before = {"a": {"fenced rows": 5.0}, "b": {"fenced rows": 7.0}}
    after = {"a": {"fenced rows": 2.0}, "b": {"fenced rows": 10.0}, "c": {"resubmitted": 1.0}}

    risen = rises(before, after)

    assert risen["fenced rows"] == 5.0
    assert risen["resubmitted"] == 1.0
    assert risen["replayed"] == 0.0
