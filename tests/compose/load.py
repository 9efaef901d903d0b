"""Clients of a deployment: each request's answer is compared with its undisturbed one."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bench.faults.clients.answers import Answer, differences
from bench.faults.clients.calls import Outcome, carry_out
from bench.faults.clients.progress import Progress
from bench.faults.clients.workload import Arrival, Case, mix
from triptych.client import AsyncClient

_CLIENTS = 16
_FEW = 5
_EARLY = 0.3  # share of the messages after which a fault falls into the midst of streams

Fault = Callable[[], Awaitable[None]]


class Lost(Exception):
    """Requests were lost or their answers changed."""


class Wave:
    """The mix of requests, sent once.

    Attributes:
        outcomes: one a request.
        in_flight: how many were not over when the fault began.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._cases = mix()
        self._progress = Progress()
        self._fault = asyncio.Event()
        self.outcomes: list[Outcome] = []
        self.in_flight = 0

    async def send(self, messages: int = 0, fault: Fault | None = None) -> None:
        """Send all, and have the fault done when clients have got so many messages."""
        async with AsyncClient(self._address) as client, asyncio.TaskGroup() as tasks:
            for case in self._cases:
                tasks.create_task(self._send(case, client))
            await self._progress.reached(round(_EARLY * messages))
            self.in_flight = sum(one.ended_s is None for one in self.outcomes)
            self._fault.set()
            if fault is not None:
                await fault()

    async def _send(self, case: Case, client: AsyncClient) -> None:
        if case.arrival is Arrival.AT_FAULT:
            await self._fault.wait()
        outcome = Outcome(case, time.monotonic())
        self.outcomes.append(outcome)
        await carry_out(outcome, client, self._fault, self._progress)

    @property
    def messages(self) -> int:
        """That all clients have got."""
        return self._progress.messages


class Traffic:
    """A few clients that ask without pause, the mix over and over, until told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._cases = [case for case in mix() if not case.read_late]
        self._progress = Progress()
        self._enough = asyncio.Event()
        self.outcomes: list[Outcome] = []

    async def run(self) -> None:
        """Ask until told to stop."""
        async with AsyncClient(self._address) as client, asyncio.TaskGroup() as tasks:
            for number in range(_CLIENTS):
                tasks.create_task(self._ask(number, client))

    async def flows(self) -> None:
        """Wait until the clients have got a few messages each."""
        await self._progress.reached(_FEW * _CLIENTS)

    def stop(self) -> None:
        """Let the clients go as each gets its answer."""
        self._enough.set()

    async def _ask(self, number: int, client: AsyncClient) -> None:
        first = number * len(self._cases) // _CLIENTS
        for case in itertools.cycle(self._cases[first:] + self._cases[:first]):
            outcome = Outcome(case, time.monotonic())
            self.outcomes.append(outcome)
            await carry_out(outcome, client, self._enough, self._progress)
            if self._enough.is_set():
                return


def answers(outcomes: Sequence[Outcome]) -> dict[str, Answer]:
    """The answers by the names of cases.

    Raises:
        Lost: one is missing.
    """
    found = {one.case.name: one.answer for one in outcomes if one.answer is not None}
    if len(found) < len(outcomes):
        raise Lost("\n".join(f"{one.case.name}: {one.failure}" for one in outcomes if one.failure))
    return found


def compare(outcomes: Sequence[Outcome], expected: Mapping[str, Answer]) -> None:
    """See that each answer is the undisturbed one.

    Raises:
        Lost: one is not there, or is another.
    """
    found = []
    for outcome in outcomes:
        name = outcome.case.name
        if outcome.answer is None:
            found.append(f"{name}: lost: {outcome.failure}")
        else:
            changes = differences(expected[name], outcome.answer)
            found += [f"{name}: changed: {change}" for change in changes]
    if found:
        raise Lost("\n".join(found))
