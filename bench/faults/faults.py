"""Faults injected into a deployment.

A fault calls `hit` whenever it takes something away; the time between the first and
the last is its own and counts in nobody's pause.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from bench.faults.deployment.processes import DETOKENIZER, MODEL, Place, Process
from bench.faults.deployment.running import Deployment
from triptych.client import AsyncClient, InternalError, Options, TriptychError

Hit = Callable[[], None]

_SHORT_START_S = 0.6  # about how long a service without a model takes to start
_DEADLY = 3  # crashes after which a request is refused
_REFUSAL_S = 120.0
_STUTTER_S = 0.3


class NotInjected(Exception):
    """A strike did not find what it was to strike, or did not do to it what it should."""


class Fault(Protocol):
    """One kind of fault."""

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        """Do it; return when nothing more will be done."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL to all of `places` at once."""

    places: tuple[Place, ...]

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        pids = [_found(deployment, place).pid for place in self.places]
        hit()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class KillDuringStart:
    """SIGKILL to `starting`, and to `other` while the first's successor starts."""

    starting: Place
    other: Place

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        before = _found(deployment, self.starting)
        hit()
        os.kill(before.pid, signal.SIGKILL)
        await deployment.processes.successor(self.starting, before.pid)
        model = self.starting.service == MODEL.service
        await asyncio.sleep(draw.uniform(0.0, deployment.load_s if model else _SHORT_START_S))
        other = _found(deployment, self.other)
        hit()
        os.kill(other.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Sleep:
    """SIGSTOP to `place`, and SIGCONT after `seconds`."""

    place: Place
    seconds: float

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        pid = _found(deployment, self.place).pid
        hit()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Stall:
    """`link` carries nothing for `seconds`, without closing; then all of it goes on.

    With `new_too` that holds for connections made meanwhile, so nobody can go on before the end.
    """

    link: str
    seconds: float
    new_too: bool = False

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        link = deployment.links[self.link]
        link.stall(new_too=self.new_too)
        hit()
        try:
            await asyncio.sleep(self.seconds)
        finally:
            link.resume()
        if self.new_too:
            hit()


@dataclass(frozen=True)
class Poison:
    """A request whose prompt holds `token`, of which the model is set to die.

    It has to be refused with `IMPLICATED_IN_CRASHES` after the third crash. With `behind` the
    detokenizer is stopped again and again meanwhile, so that the router knows less of what a model
    has produced than it had when it died.
    """

    token: int
    behind: bool = False

    async def __call__(self, deployment: Deployment, draw: random.Random, hit: Hit) -> None:
        async with asyncio.timeout(_REFUSAL_S):
            dying = asyncio.create_task(_deaths(deployment, MODEL, _DEADLY, hit))
            stuttering = None
            if self.behind:
                stuttering = asyncio.create_task(_stutter(deployment, DETOKENIZER))
            try:
                await self._refused(deployment)
                await dying
            except TimeoutError as error:
                raise NotInjected(f"the model did not die {_DEADLY} times of a request") from error
            finally:
                dying.cancel()
                if stuttering is not None:
                    stuttering.cancel()
                    await asyncio.wait([stuttering])

    async def _refused(self, deployment: Deployment) -> None:
        prompt = [self.token]
        options = Options(max_tokens=50, temperature=0.0, timeout=_REFUSAL_S)
        async with AsyncClient(deployment.address) as client:
            try:
                await client.generate(prompt, options)
            except InternalError as error:
                if error.reason == "IMPLICATED_IN_CRASHES":
                    return
                raise NotInjected(f"the poisonous request failed with {error.reason!r}") from error
            except TriptychError as error:
                raise NotInjected(f"the poisonous request failed with {error}") from error
        raise NotInjected("the poisonous request was answered")


async def _deaths(deployment: Deployment, place: Place, count: int, hit: Hit) -> None:
    """Call `hit` each time that the process at `place` has a successor, until the last."""
    pid = _found(deployment, place).pid
    for _ in range(count):
        pid = (await deployment.processes.successor(place, pid)).pid
        hit()


async def _stutter(deployment: Deployment, place: Place) -> None:
    """Stop the process at `place` for a moment, again and again."""
    while True:
        await Sleep(place, _STUTTER_S)(deployment, random.Random(), lambda: None)
        await asyncio.sleep(_STUTTER_S)


def _found(deployment: Deployment, place: Place) -> Process:
    process = deployment.processes.find(place)
    if process is None:
        raise NotInjected(f"there is no {place} to strike")
    return process
