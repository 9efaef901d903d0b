"""Send requests, in a closed loop or as they were recorded, and time their messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from grpc import aio

from triptych.client import Options
from triptych.client.requests import generate_request
from triptych.load.measures import Figures, RequestTimes, summarise
from triptych.load.prompts import Prompts
from triptych.load.streams import TimedStreams
from triptych.load.traces import Arrival

_GIVE_UP_S = 600.0

OnDone = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One request to send: its number in the run, and its lengths in tokens."""

    number: int
    prompt_tokens: int
    output_tokens: int


class Sender:
    """Sends jobs over one channel, all with the same options but for their lengths."""

    def __init__(self, channel: aio.Channel, prompts: Prompts, options: Options) -> None:
        self._streams = TimedStreams(channel, _GIVE_UP_S)
        self._prompts = prompts
        self._options = options

    async def send(self, job: Job) -> RequestTimes:
        """Send one request and time it until its stream ends."""
        request = generate_request(self._prompts.cut(job.number, job.prompt_tokens), self._options)
        request.stop.max_tokens = job.output_tokens
        request.stop.ignore_eos = True
        return (await self._streams.time(request))[0]


async def closed_loop(
    sender: Sender, jobs: Sequence[Job], *, concurrency: int, on_done: OnDone
) -> Figures:
    """Send `jobs` with `concurrency` of them in flight; each stream begins where one ends."""
    waiting = iter(jobs)
    times: list[RequestTimes] = []
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(_work(sender, waiting, times, on_done))
    return summarise(times, time.perf_counter() - started, concurrency)


async def _work(
    sender: Sender, waiting: Iterator[Job], times: list[RequestTimes], on_done: OnDone
) -> None:
    for job in waiting:
        times.append(await sender.send(job))
        on_done()


async def open_loop(sender: Sender, arrivals: Iterable[Arrival], *, on_done: OnDone) -> Figures:
    """Send requests when they are due, however many are still in flight."""
    times: list[RequestTimes] = []
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, arrival in enumerate(arrivals):
            job = Job(number, arrival.prompt_tokens, arrival.output_tokens)
            await asyncio.sleep(started + arrival.at_s - time.perf_counter())
            tasks.create_task(_work(sender, iter([job]), times, on_done))
    return summarise(times, time.perf_counter() - started, None)
