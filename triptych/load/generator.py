"""Send requests, in a closed loop or as they were recorded, and time their messages.

The client shares the machine with what it measures, so replies are not decoded but for the last
one of a stream, which tells the tokens used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import grpc
from grpc import aio

from protos import generation_pb2 as pb
from triptych.client import Options
from triptych.client.requests import generate_request
from triptych.load.measures import Figures, RequestTimes, summarise
from triptych.load.prompts import Prompts
from triptych.load.traces import Arrival

_METHOD = "/triptych.v1.GenerationService/GenerateStream"
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
        self._call: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_METHOD)
        self._prompts = prompts
        self._options = options

    async def send(self, job: Job) -> RequestTimes:
        """Send one request and time it until its stream ends."""
        request = generate_request(self._prompts.cut(job.number, job.prompt_tokens), self._options)
        request.stop.max_tokens = job.output_tokens
        request.stop.ignore_eos = True
        wire = request.SerializeToString()
        started = last = time.perf_counter()
        first: float | None = None
        messages = 0
        reply = b""
        call = self._call(wire, timeout=_GIVE_UP_S)
        try:
            async for message in call:
                last = time.perf_counter()
                first = first or last
                messages += 1
                reply = message
        except grpc.RpcError:
            failure = (await call.code()).name
            return RequestTimes(0, messages, (first or last) - started, last - started, failure)
        finally:
            call.cancel()
        tokens = pb.GenerateStreamResponse.FromString(reply).usage.completion_tokens
        return RequestTimes(tokens, messages, (first or last) - started, last - started)


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
