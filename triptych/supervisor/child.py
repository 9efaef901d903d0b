"""One service as a child process: started, listened to, stopped.

It runs in a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, which
then stops the services in their order.
"""

from __future__ import annotations

import asyncio
import signal
from asyncio import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from chassis.errors import StartError
from triptych.supervisor.plan import ServicePlan

_LAST_WORDS_S = 1.0
_READ_BYTES = 1 << 16

OnLine = Callable[[ServicePlan, str], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a service's process ended; `reason` is its own last word, empty where it left none."""

    service: str
    code: int
    reason: str

    def describe(self) -> str:
        """A sentence that names the service."""
        if self.reason:
            return f"{self.service}: {self.reason}"
        if self.code < 0:
            return f"the {self.service} was killed by {signal.Signals(-self.code).name}"
        return f"the {self.service} ended with exit code {self.code}; its log says why"


class Child:
    """The process of one service. After it has ended it may be started again."""

    def __init__(self, plan: ServicePlan, on_line: OnLine) -> None:
        self.plan = plan
        self._on_line = on_line
        self._process: subprocess.Process | None = None
        self._reason = ""

    async def start(self) -> None:
        """Start the process.

        Raises:
            StartError: the system refuses.
        """
        self._reason = ""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.plan.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self.plan.environment),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"cannot start the {self.plan.service}: {error.strerror}") from error

    async def wait(self) -> Ended:
        """Pass on what the process writes until it ends."""
        process = self._process
        if process is None:
            raise RuntimeError("not started")
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen(process))
            code = await process.wait()
            # A process of its own that outlives it may hold the pipe open.
            await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
            listening.cancel()
        return Ended(self.plan.service, code, self._reason)

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end; kill it where it has not after `grace_s` seconds."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _listen(self, process: subprocess.Process) -> None:
        last_word = f"triptych {self.plan.service}: "
        async for line in _lines(process):
            if line.startswith(last_word):
                self._reason = line.removeprefix(last_word)
            else:
                self._on_line(self.plan, line)


async def _lines(process: subprocess.Process) -> AsyncIterator[str]:
    """The lines a process writes, however long."""
    if process.stdout is None:
        raise RuntimeError("its output is not piped")
    rest = b""
    while chunk := await process.stdout.read(_READ_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
