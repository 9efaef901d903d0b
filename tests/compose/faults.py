"""Containers die or are restarted under load, and no client notices but by a pause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.faults.clients.answers import Answer
from bench.faults.clients.calls import Outcome, longest_pause_s
from tests.compose import load
from tests.compose.checks import Broken
from tests.compose.load import Traffic, Wave
from tests.compose.project import Project


@dataclass
class Undisturbed:
    """What clients get where nothing happens.

    Attributes:
        answers: by the names of their cases.
        messages: in all, of streams.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    messages: int = 0

    async def learn(self, project: Project) -> str:
        """Ask a deployment that nobody disturbs."""
        wave = Wave(project.address())
        await wave.send()
        self.answers, self.messages = load.answers(wave.outcomes), wave.messages
        return f"{len(wave.outcomes)} requests, longest pause {_pause(wave.outcomes)}"


async def crash(project: Project, service: str, expected: Undisturbed) -> str:
    """A container's process is killed while clients read; each answer is as it would have been."""
    wave = Wave(project.address())
    await wave.send(expected.messages, lambda: asyncio.to_thread(project.crash, service))
    load.compare(wave.outcomes, expected.answers)
    if not wave.in_flight:
        raise Broken("nothing was under way at the fault")
    await asyncio.to_thread(project.await_healthy, *project.services())
    return (
        f"{len(wave.outcomes)} requests, {wave.in_flight} under way; none lost, no answer "
        f"changed; longest pause {_pause(wave.outcomes)}; {_recovery(project)}"
    )


async def rollout(
    project: Project, replicas: Sequence[Sequence[str]], expected: Undisturbed
) -> str:
    """The replicas are restarted one after another while clients ask without pause."""
    traffic = Traffic(project.address())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.run())
        await traffic.flows()
        for services in replicas:
            await asyncio.to_thread(project.restart, *services)
        traffic.stop()
    load.compare(traffic.outcomes, expected.answers)
    return (
        f"{len(replicas)} replicas, {len(traffic.outcomes)} requests; none lost, no answer "
        f"changed; longest pause {_pause(traffic.outcomes)}; {_recovery(project)}"
    )


def _pause(outcomes: Sequence[Outcome]) -> str:
    return f"{longest_pause_s(outcomes):.1f} s"


def _recovery(project: Project) -> str:
    """What recovery has done, as the deployment tells it."""
    seen = json.loads(project.execute("router", "triptych", "status", "--json"))
    done = {name: count for name, count in seen["recovery"].items() if count}
    return ", ".join(f"{name} {count}" for name, count in done.items()) or "nothing to recover"
