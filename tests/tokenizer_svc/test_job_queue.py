"""Jobs run in order of arrival, and long ones leave a worker to short ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenizer_svc.job_queue import JobQueue


def queue_of(*jobs: tuple[str, bool], workers: int) -> JobQueue[str]:
    queue: JobQueue[str] = JobQueue(workers)
    for job, long in jobs:
        queue.put(job, long=long)
    return queue


def test_long_jobs_leave_one_worker_free() -> None:
    queue = queue_of(("L1", True), ("L2", True), ("s", False), workers=2)
    assert [queue.take(), queue.take(), queue.take()] == ["L1", "s", None]
    queue.finish("s")
    assert queue.take() is None
    queue.finish("L1")
    assert queue.take() == "L2"


def test_a_single_worker_takes_all_in_order() -> None:
    queue = queue_of(("L1", True), ("s", False), ("L2", True), workers=1)
    taken = []
    while (job := queue.take()) is not None:
        taken.append(job)
        queue.finish(job)
    assert taken == ["L1", "s", "L2"]


def test_a_short_job_does_not_overtake_a_long_one_that_may_start() -> None:
    assert queue_of(("L1", True), ("s", False), workers=2).take() == "L1"


def test_a_job_put_back_is_next() -> None:
    queue = queue_of(("L1", True), ("L2", True), ("s", False), workers=2)
    job = queue.take()
    assert job is not None
    queue.put_back(job, long=True)
    assert queue.take() == "L1"


def test_only_a_waiting_job_can_be_discarded() -> None:
    queue = queue_of(("a", False), ("b", False), workers=1)
    assert queue.take() == "a"
    assert (queue.discard("a"), queue.discard("b"), len(queue)) == (False, True, 0)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4))
def test_every_job_is_taken_once_and_each_kind_in_order(kinds: list[bool], workers: int) -> None:
    queue: JobQueue[int] = JobQueue(workers)
    for job, long in enumerate(kinds):
        queue.put(job, long=long)
    taken, running = [], []
    while len(queue) or running:
        while len(running) < workers and (job := queue.take()) is not None:
            taken.append(job)
            running.append(job)
            assert workers == 1 or sum(kinds[job] for job in running) < workers
        queue.finish(running.pop(0))
    assert sorted(taken) == list(range(len(kinds)))
    for long in (True, False):
        of_kind = [job for job in taken if kinds[job] == long]
        assert of_kind == sorted(of_kind)
