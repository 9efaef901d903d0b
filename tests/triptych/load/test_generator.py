"""Closed and open loops, with a sender that only waits."""

import asyncio

from triptych.load.generator import Job, closed_loop, open_loop
from triptych.load.measures import RequestTimes
from triptych.load.traces import Arrival


class WaitingSender:
    """Answers after a turn of the loop; remembers how many were in flight."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.in_flight = self.most_in_flight = 0

    async def send(self, job: Job) -> RequestTimes:
        self.jobs.append(job)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return RequestTimes(job.output_tokens, 1, 0.01, 0.01)


async def test_a_closed_loop_keeps_exactly_so_many_in_flight():
    sender = WaitingSender()
    jobs = [Job(number, 1, 2) for number in range(10)]
    done = []

    figures = await closed_loop(sender, jobs, concurrency=3, on_done=lambda: done.append(1))

    assert sender.most_in_flight == 3
    assert sender.jobs == jobs
    assert len(done) == figures.requests == 10
    assert (figures.concurrency, figures.output_tokens) == (3, 20)


async def test_an_open_loop_sends_what_is_due_whatever_is_in_flight():
    sender = WaitingSender()
    arrivals = [Arrival(0.0, number + 1, 1) for number in range(5)]

    figures = await open_loop(sender, arrivals, on_done=lambda: None)

    assert sender.most_in_flight == 5
    assert [job.prompt_tokens for job in sender.jobs] == [1, 2, 3, 4, 5]
    assert figures.concurrency is None
