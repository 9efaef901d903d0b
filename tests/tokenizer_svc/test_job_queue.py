"""Smaller jobs go first, within bounds, and larger ones leave a worker to small ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_svc.job_queue import JobQueue, size_class

SMALL, MEDIUM, LARGE, HUGE = range(4)


def queue_of(*jobs: tuple[str, int], workers: int) -> JobQueue[str]:
    queue: JobQueue[str] = JobQueue(workers)
    for job, of_class in jobs:
        queue.put(job, of_class)
    return queue


@pytest.mark.parametrize(
    ("size", "of_class"),
    [(0, SMALL), (8191, SMALL), (8192, MEDIUM), (65536, LARGE), (524288, HUGE), (1 << 30, HUGE)],
)
def test_classes_go_by_size(size: int, of_class: int) -> None:
    assert size_class(size) == of_class


@pytest.mark.parametrize("of_class", [SMALL, MEDIUM])
def test_large_jobs_leave_one_worker_free(of_class: int) -> None:
    queue = queue_of(("L1", HUGE), ("L2", LARGE), workers=2)
    assert [queue.pop(2), queue.pop(2)] == ["L2", None]
    queue.put("other", of_class)
    assert [queue.pop(2), queue.pop(2)] == ["other", None]
    queue.finish("other")
    assert queue.pop(2) is None
    queue.finish("L2")
    assert queue.pop(2) == "L1"


def test_large_jobs_wait_while_the_other_worker_is_away() -> None:
    queue = queue_of(("L", HUGE), workers=2)
    assert queue.pop(1) is None
    queue.put("s", SMALL)
    assert queue.pop(1) == "s"
    assert queue.pop(2) == "L"


def test_smaller_jobs_go_first() -> None:
    queue = queue_of(("L", HUGE), ("m", MEDIUM), ("s", SMALL), workers=1)
    taken = []
    while (job := queue.pop(1)) is not None:
        taken.append(job)
        queue.finish(job)
    assert taken == ["s", "m", "L"]


@pytest.mark.parametrize(("of_class", "most"), [(MEDIUM, 16), (LARGE, 64), (HUGE, 256)])
def test_only_so_many_smaller_jobs_pass_a_large_one(of_class: int, most: int) -> None:
    queue: JobQueue[int] = JobQueue(1)
    queue.put(-1, of_class)
    passed = 0
    for arrival in range(1000):
        queue.put(arrival, SMALL)
        job = queue.pop(1)
        assert job is not None
        if job == -1:
            break
        queue.finish(job)
        passed += 1
    assert passed == most


def test_a_job_put_back_is_next_of_its_class() -> None:
    queue = queue_of(("L1", HUGE), ("L2", HUGE), ("s", SMALL), workers=2)
    assert [queue.pop(2), queue.pop(2)] == ["s", "L1"]
    queue.put_back("L1", HUGE)
    assert queue.pop(2) == "L1"


def test_an_interrupted_worker_is_given_smaller_jobs_only() -> None:
    queue = queue_of(("L", LARGE), ("m", MEDIUM), ("H", HUGE), workers=2)
    assert (queue.has_smaller(LARGE), queue.has_smaller(MEDIUM)) == (True, False)
    assert [queue.take_smaller(LARGE), queue.take_smaller(LARGE)] == ["m", None]


def test_an_interrupted_worker_is_not_held_up_by_the_place_it_keeps() -> None:
    queue = queue_of(("H", HUGE), workers=2)
    assert queue.pop(2) == "H"
    queue.put("l", LARGE)
    assert queue.pop(2) is None
    assert queue.take_smaller(HUGE) == "l"


def test_only_a_waiting_job_can_be_discarded() -> None:
    queue = queue_of(("a", SMALL), ("b", SMALL), workers=1)
    assert queue.pop(1) == "a"
    assert (queue.discard("a"), queue.discard("b"), len(queue)) == (False, True, 0)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_every_job_is_taken_once_and_each_class_in_order(classes: list[int], workers: int) -> None:
    queue: JobQueue[int] = JobQueue(workers)
    for job, of_class in enumerate(classes):
        queue.put(job, of_class)
    taken: list[int] = []
    running: list[int] = []
    while len(queue) or running:
        while len(running) < workers and (job := queue.pop(workers)) is not None:
            taken.append(job)
            running.append(job)
            assert workers == 1 or sum(classes[job] >= LARGE for job in running) < workers
        queue.finish(running.pop(0))
    assert sorted(taken) == list(range(len(classes)))
    for of_class in range(4):
        of_kind = [job for job in taken if classes[job] == of_class]
        assert of_kind == sorted(of_kind)
