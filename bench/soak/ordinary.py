"""Ordinary clients beside the hostile ones: streams without a pause, and health checks.

The gaps between the messages of a stream, and the times of the checks, are what the others' inputs
must not stretch.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from triptych.client import AsyncClient, TriptychError

_PROMPTS = ("def read_file(path):\n", "class Queue:\n    def __init__(self", "import os\n\n\n")
_ANSWER_TOKENS = 400
_CHECK_EVERY_S = 0.02
_WAIT_S = 60.0


@dataclass
class Seen:
    """Observations of the ordinary clients.

    Attributes:
        gaps_s: times between two messages of a stream, in seconds.
        checks_s: times of health checks, in seconds.
        streams: streams that ended as they should.
        failures: what failed, in words.
    """

    gaps_s: list[float] = field(default_factory=list)
    checks_s: list[float] = field(default_factory=list)
    streams: int = 0
    failures: list[str] = field(default_factory=list)


async def watch(address: str, streams: int, seconds: float, seen: Seen) -> None:
    """Keep `streams` streams and a health check going for `seconds`."""
    ends = time.monotonic() + seconds
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        group.create_task(_check(address, ends, seen))
        for number in range(streams):
            group.create_task(_stream(client, number, ends, seen))


async def _stream(client: AsyncClient, number: int, ends: float, seen: Seen) -> None:
    seed = number
    while time.monotonic() < ends:
        seed += 1
        deltas = client.stream(
            _PROMPTS[seed % len(_PROMPTS)], max_tokens=_ANSWER_TOKENS, ignore_eos=True, seed=seed
        )
        last = None
        try:
            async for _ in deltas:
                now = time.monotonic()
                if last is not None:
                    seen.gaps_s.append(now - last)
                last = now
            seen.streams += 1
        except TriptychError as error:
            seen.failures.append(f"stream: {error.status.name} {error.message}")


async def _check(address: str, ends: float, seen: Seen) -> None:
    async with aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=_WAIT_S)
            except aio.AioRpcError as error:
                seen.failures.append(f"health: {error.code().name}")
            seen.checks_s.append(time.monotonic() - began)
            await asyncio.sleep(_CHECK_EVERY_S)
