"""One request over each protocol, timed; the client does no more than read and note the time.

Times are taken when bytes arrive. TTFT ends with the first message that carries output.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from grpc import aio

from bench.peers.load.event_stream import EventStream
from bench.peers.load.http_requests import HTTP_SPEECHES, HttpSpeech
from triptych.client import Options
from triptych.client.connection import CHANNEL_OPTIONS
from triptych.client.requests import generate_request
from triptych.load.measures import RequestTimes
from triptych.load.streams import TimedStreams

if TYPE_CHECKING:
    import aiohttp

_GIVE_UP_S = 900.0


@dataclass(frozen=True)
class Answer:
    """One request's times, and the length of its prompt as the server counts it."""

    times: RequestTimes
    prompt_tokens: int


class Sender(Protocol):
    """Sends single requests to one server."""

    async def send(self, prompt: str, output_tokens: int) -> Answer:
        """Send one request and time it until its stream ends; failing is an answer too."""


@asynccontextmanager
async def connected(speech: str, address: str) -> AsyncIterator[Sender]:
    """A sender to the server at `address`, which is HOST:PORT, for the time of the block."""
    if speech == "triptych":
        async with aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            yield TriptychSender(channel)
        return
    import aiohttp

    spoken = HTTP_SPEECHES[speech]
    connector = aiohttp.TCPConnector(limit=0, force_close=not spoken.keeps_connections)
    timeout = aiohttp.ClientTimeout(total=_GIVE_UP_S)
    async with aiohttp.ClientSession(
        f"http://{address}", connector=connector, timeout=timeout
    ) as session:
        yield HttpSender(session, spoken)


class TriptychSender:
    """Speaks gRPC; replies but the last of a stream are not decoded."""

    def __init__(self, channel: aio.Channel) -> None:
        self._streams = TimedStreams(channel, _GIVE_UP_S)

    async def send(self, prompt: str, output_tokens: int) -> Answer:
        options = Options(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
        times, usage = await self._streams.time(generate_request(prompt, options))
        return Answer(times, usage.prompt_tokens)


class HttpSender:
    """Speaks HTTP with an event stream; events but the last are only counted."""

    def __init__(self, session: aiohttp.ClientSession, speech: HttpSpeech) -> None:
        self._session = session
        self._speech = speech

    async def send(self, prompt: str, output_tokens: int) -> Answer:
        import aiohttp

        body = self._speech.body(prompt, output_tokens)
        stream = EventStream()
        started = last = time.perf_counter()
        first: float | None = None
        try:
            async with self._session.post(
                self._speech.path, data=body, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status != 200:
                    return _failed(f"HTTP {response.status}", 0, 0.0)
                while received := await response.content.readany():
                    if stream.feed(received):
                        last = time.perf_counter()
                        first = first or last
            found = self._speech.usage(stream.last())
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            return _failed(type(error).__name__, stream.events, last - started)
        messages = stream.events - self._speech.closing_events
        ttft_s = (first or last) - started
        times = RequestTimes(found.output_tokens, messages, ttft_s, last - started)
        return Answer(times, found.prompt_tokens)


def _failed(failure: str, messages: int, total_s: float) -> Answer:
    return Answer(RequestTimes(0, messages, total_s, total_s, failure), 0)
