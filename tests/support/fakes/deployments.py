"""Deployments of stand-ins for the services, run by the supervisor in this process."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from triptych.supervisor.display import Display
from triptych.supervisor.plan import Deployment
from triptych.supervisor.supervise import supervise

FAKE = str(Path(__file__).parents[2] / "triptych" / "supervisor" / "fake_service.py")
SERVICES = ("router", "tokenizer", "model", "detokenizer")


class Running:
    """A deployment run as a task: what it announces, what it shows, how it ends."""

    def __init__(self, deployment: Deployment) -> None:
        self.shown: list[str] = []
        self.lines: list[str] = []
        self._changed = asyncio.Event()
        self._processes = 2 + 2 * deployment.replicas
        display = Display(io.StringIO(), log_format="text")
        display.write = self._write
        self.task = asyncio.create_task(supervise(deployment, display, self._announce))

    def _write(self, line: str) -> None:
        self.shown.append(line)
        self._wake()

    def _announce(self, line: str) -> None:
        self.lines.append(line)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def shows(self, pattern: str, times: int = 1) -> list[str]:
        """The lines shown that match, once there are so many; if it ends, its end is raised."""
        while len(found := [one for one in self.shown if re.search(pattern, one)]) < times:
            await self._change()
        return found

    async def ready(self) -> str:
        """Wait until it is ready; return the public address."""
        # The stand-in of the router does not wait for the others.
        await self.shows(" listening ", self._processes)
        while not any(line.startswith("metrics on ") for line in self.lines):
            await self._change()
        return self.address

    async def _change(self) -> None:
        changed = asyncio.create_task(self._changed.wait())
        await asyncio.wait({self.task, changed}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        if self.task.done():
            self.task.result()
            raise AssertionError("it has ended: " + "\n".join(self.shown))

    @property
    def address(self) -> str:
        return self.lines[0].removeprefix("ready on ")

    @property
    def metrics_url(self) -> str:
        return self.lines[1].removeprefix("metrics on ")

    async def scrape(self) -> dict[str, Metric]:
        """The metrics of the deployment, by family."""

        def get() -> str:
            with urllib.request.urlopen(self.metrics_url, timeout=20) as answer:
                return answer.read().decode()

        text = await asyncio.to_thread(get)
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        return {family.name: family for family in families}


@asynccontextmanager
async def run(deployment: Deployment) -> Iterator[Running]:
    """A ready deployment; it must end well when it is told to stop."""
    running = Running(deployment)
    await running.ready()
    yield running
    os.kill(os.getpid(), signal.SIGTERM)
    await running.task


def children() -> dict[str, list[int]]:
    """Stand-ins of this process that are alive, by service."""
    found: dict[str, list[int]] = {}
    for tasks in Path("/proc/self/task").glob("*/children"):
        for pid in tasks.read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if FAKE.encode() in words:
                found.setdefault(words[2].decode(), []).append(int(pid))
    return found
