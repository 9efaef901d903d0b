"""One round: send the mix, strike, wait for every answer, and see that nothing is held."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence

from bench.faults.clients.answers import Answer
from bench.faults.clients.calls import Outcome, carry_out
from bench.faults.clients.progress import Progress
from bench.faults.clients.workload import Arrival, Case
from bench.faults.deployment import running
from bench.faults.deployment.counters import read, rises
from bench.faults.deployment.processes import MODEL, NotBack, Process
from bench.faults.deployment.running import Deployment, DeploymentFailed
from bench.faults.faults import Fault, NotInjected
from bench.faults.results import Result
from triptych.client import AsyncClient, TriptychError

_LATER = (0.02, 0.3)  # shares of the undisturbed run's messages
_AROUND_FAULT_S = 0.03
_READ_ON_S = 0.5  # after the fault, a client that reads late goes on
_SETTLE_S = 10.0
_WHOLE_S = 60.0
_LOOK_AGAIN_S = 0.05

Load = tuple[Process, asyncio.Task[float]]
"""A model, and a task that measures how long its successor takes to load."""


class Player:
    """Plays one round; `result` is what it came to, `outcomes` what each request came to."""

    def __init__(self, deployment: Deployment, cases: Sequence[Case], draw: random.Random) -> None:
        """Prepare.

        Args:
            deployment: whole, and without load.
            cases: the requests.
            draw: the round's chance.
        """
        self._deployment = deployment
        self._cases = cases
        self._draw = draw
        self.outcomes: list[Outcome] = []
        self._progress = Progress()
        self._hits: list[float] = []
        self._fault_near = asyncio.Event()
        self._injected = asyncio.Event()

    async def play(
        self,
        result: Result,
        fault: Fault,
        messages: int,
        expected: Mapping[str, Answer],
        unavailable: bool,
    ) -> None:
        """Play it.

        Args:
            result: has its name, setting and share; the rest is filled in.
            fault: to inject.
            messages: of the undisturbed run.
            expected: the undisturbed answers, by the names of cases; empty: any will do.
            unavailable: whether streams that have got messages may end UNAVAILABLE.

        Raises:
            DeploymentFailed: the deployment is not whole again.
        """
        before = await read(self._deployment.address)
        self._deployment.processes.note_files()
        loads = list(self._watched_loads())
        began = time.monotonic()
        try:
            async with AsyncClient(self._deployment.address) as client:
                await self._send_and_inject(client, result, fault, messages)
                result.judge_times(self.outcomes)
                outcomes = await self._repeated(client, result) if unavailable else self.outcomes
                result.judge_answers(outcomes, expected)
                result.took_s = time.monotonic() - began
                await self._settle(client)
            result.counters = rises(before, await read(self._deployment.address))
            result.judge_loads(self._hits, await self._loaded(loads), self._deployment.load_s)
        finally:
            for _, task in loads:
                task.cancel()

    async def _send_and_inject(
        self, client: AsyncClient, result: Result, fault: Fault, messages: int
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            for case in self._cases:
                tasks.create_task(self._send(case, client, messages))
            await self._progress.reached(round(result.share * messages))
            load = await client.load()
            result.running, result.queued = load.running, load.queued
            self._fault_near.set()
            await asyncio.sleep(self._draw.uniform(0, _AROUND_FAULT_S))
            try:
                await fault(self._deployment, self._draw, lambda: self._hit(result))
            except (NotInjected, NotBack) as error:
                result.problems.append(str(error))
            finally:
                if not self._hits:
                    self._injected.set()
        result.messages = self._progress.messages

    async def _send(self, case: Case, client: AsyncClient, messages: int) -> None:
        await self._turn(case, messages)
        outcome = Outcome(case, time.monotonic())
        self.outcomes.append(outcome)
        await carry_out(outcome, client, self._injected, self._progress)

    async def _turn(self, case: Case, messages: int) -> None:
        """Wait until `case` is to be sent."""
        if case.arrival is Arrival.LATER:
            await self._progress.reached(round(self._draw.uniform(*_LATER) * messages))
        elif case.arrival is Arrival.AT_FAULT:
            delay_s = self._draw.uniform(0, _AROUND_FAULT_S)
            await self._fault_near.wait()
            await asyncio.sleep(delay_s)

    def _hit(self, result: Result) -> None:
        if not self._hits:
            result.in_flight = sum(one.ended_s is None for one in self.outcomes)
            asyncio.get_running_loop().call_later(_READ_ON_S, self._injected.set)
        self._hits.append(time.monotonic())

    async def _repeated(self, client: AsyncClient, result: Result) -> list[Outcome]:
        """The outcomes, those that ended UNAVAILABLE once more."""
        again = [Outcome(one.case, time.monotonic()) for one in self.outcomes if one.unavailable]
        result.unavailable = len(again)
        async with asyncio.TaskGroup() as tasks:
            for outcome in again:
                tasks.create_task(carry_out(outcome, client, self._injected, self._progress))
        return [one for one in self.outcomes if not one.unavailable] + again

    def _watched_loads(self) -> Iterator[Load]:
        processes = self._deployment.processes
        for place, process in processes.processes().items():
            if place.service == MODEL.service:
                yield process, asyncio.create_task(running.load_s(processes, place, process.pid))

    async def _loaded(self, loads: Sequence[Load]) -> list[float]:
        """Loading times of the models that replaced dead ones."""
        alive = self._deployment.processes.processes().values()
        return [await task for before, task in loads if before not in alive]

    async def _settle(self, client: AsyncClient) -> None:
        """Wait until nothing is held and everything is back.

        Raises:
            DeploymentFailed: it does not come to that.
        """
        deadline = time.monotonic() + _SETTLE_S
        last = time.monotonic() + _WHOLE_S
        while time.monotonic() < last:
            try:
                load = await client.load(timeout=5.0)
            except TriptychError:
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            whole = all(replica.ready for replica in load.replicas)
            held = load.running or load.queued or load.kv_slots_used
            if whole and not held:
                return
            if held and time.monotonic() > deadline:
                raise DeploymentFailed(
                    f"still held: {load.running} running, {load.queued} queued, "
                    f"{load.kv_slots_used} slots"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
        raise DeploymentFailed("not every replica came back")
