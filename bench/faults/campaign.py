"""Plays rounds one after another, each on a deployment that is whole.

Rounds of one setting share a deployment for as long as it lasts, so that what one round leaves
behind is seen in the next.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from bench.faults import report, schedule
from bench.faults.clients.answers import Answer
from bench.faults.clients.workload import POISON_TOKEN, mix
from bench.faults.deployment import running
from bench.faults.deployment.running import Deployment, DeploymentFailed
from bench.faults.faults import Hit
from bench.faults.results import Result
from bench.faults.rounds import Player
from bench.faults.schedule import Round, Setting

_FIRST_GUESS = 3000  # messages of the mix, before it was ever sent
_POISON = {"TRIPTYCH_FAULT_CRASH_ON_TOKEN": str(POISON_TOKEN)}


class Campaign:
    """A run of `make faults`.

    Attributes:
        results: of the undisturbed run, then of each round.
        complaints: of deployments that did not end well.
    """

    def __init__(self, seed: int, logs: Path, console: Console) -> None:
        self._seed = seed
        self._logs = logs
        self._console = console
        self._cases = mix()
        self._expected: dict[str, Answer] = {}
        self._opened = AsyncExitStack()
        self._setting: Setting | None = None
        self._deployment: Deployment | None = None
        self.results: list[Result] = []
        self.complaints: list[str] = []

    @property
    def good(self) -> bool:
        """True if nothing was lost, changed or left behind."""
        return not self.complaints and all(one.good for one in self.results)

    async def run(self, rounds: Sequence[Round]) -> None:
        """Play the undisturbed run, then `rounds`."""
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            messages = await self._undisturbed()
            for number, one in enumerate(rounds):
                await self._round(number, one, messages)
        finally:
            await self._leave()

    async def _undisturbed(self) -> int:
        """Learn the answers; return how many messages the clients got."""
        result = Result("undisturbed", Setting.ONE_REPLICA.value, 0.3)
        deployment = await self._at(Setting.ONE_REPLICA)
        player = Player(deployment, self._cases, schedule.chance(self._seed, 0, result.name))
        await player.play(result, _nothing, _FIRST_GUESS, {}, unavailable=False)
        result.limit_s = 0.0
        self._report(result)
        answers = {one.case.name: one.answer for one in player.outcomes}
        self._expected = {name: one for name, one in answers.items() if one is not None}
        if len(self._expected) < len(self._cases):
            raise DeploymentFailed("requests failed although there was no fault")
        return result.messages

    async def _round(self, number: int, one: Round, messages: int) -> None:
        draw = schedule.chance(self._seed, number, one.name)
        result = Result(one.name, one.setting.value, schedule.share(one, draw))
        try:
            player = Player(await self._at(one.setting), self._cases, draw)
            await player.play(
                result, one.fault, messages, self._expected, unavailable=one.unavailable
            )
        except DeploymentFailed as error:
            result.problems.append(str(error))
            await self._leave()
        usual = self.results[0].counters
        result.problems += [
            f"{name}: no more than undisturbed"
            for name in one.rising
            if result.counters.get(name, 0) <= usual[name]
        ]
        self._report(result)

    def _report(self, result: Result) -> None:
        self.results.append(result)
        style = "" if result.good else "red"
        self._console.print(
            report.line(result), style=style, highlight=False, markup=False, soft_wrap=True
        )
        for problem in result.problems:
            self._console.print(
                f"  {problem}", style=style, highlight=False, markup=False, soft_wrap=True
            )

    async def _at(self, setting: Setting) -> Deployment:
        """The deployment of `setting`, which is started unless it is there already."""
        if self._deployment is None or self._setting is not setting:
            await self._leave()
            self._setting = setting
            log = self._opened.enter_context(
                (self._logs / f"{setting.name.lower()}.log").open("ab")
            )
            match setting:
                case Setting.ONE_REPLICA:
                    made = running.supervised(log)
                case Setting.TWO_REPLICAS:
                    made = running.supervised(log, replicas=2)
                case Setting.LINKS:
                    made = running.separate(log)
                case Setting.POISONED:
                    made = running.supervised(log, settings=_POISON)
                case Setting.POISONED_LATER:
                    later = {**_POISON, "TRIPTYCH_FAULT_CRASH_AFTER_TOKENS": "20"}
                    made = running.supervised(log, settings=later)
            self._deployment = await self._opened.enter_async_context(made)
        return self._deployment

    async def _leave(self) -> None:
        """End the deployment there is."""
        deployment, self._deployment = self._deployment, None
        await self._opened.aclose()
        if deployment is not None:
            self.complaints += deployment.complaints


async def _nothing(deployment: Deployment, draw: random.Random, hit: Hit) -> None:
    """No fault."""
    hit()
