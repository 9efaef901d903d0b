"""One service as a child process: start, output, stop, restart.

It runs in a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, which
then stops the services in their order. Once stopped it is not started again.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
from asyncio import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from chassis.logs import printable
from triptych.supervisor.plan import ServicePlan

# A process of its own that outlives a service holds the pipe open; nobody should wait for that.
_LAST_WORDS_S = 0.25
_READ_BYTES = 1 << 16
# What the chassis logs is far below this; the rest of a line that is longer is left out.
_MOST_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a service's process.

    Attributes:
        name: the service's.
        code: exit code, below 0 for a signal; None: it could not be started.
        reason: the process's own last word, or the system's; empty where there is none.
    """

    name: str
    code: int | None
    reason: str

    @property
    def cause(self) -> str:
        """Cause in a few words."""
        if self.reason or self.code is None:
            return self.reason
        return f"killed by {_signal(-self.code)}" if self.code < 0 else f"exit code {self.code}"

    def describe(self) -> str:
        """A sentence that names the service."""
        if self.reason or self.code is None:
            return f"{self.name}: {self.reason}"
        if self.code < 0:
            return f"the {self.name} was killed by {_signal(-self.code)}"
        return f"the {self.name} ended with exit code {self.code}; its log says why"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"


class Child:
    """One service, and its process while it has one.

    Attributes:
        plan: what is run.
        address: where it serves; set again once it has picked a port.
        restarts: number of restarts, counted by the supervisor.
    """

    def __init__(self, plan: ServicePlan, on_line: Callable[[Child, str], None]) -> None:
        self.plan = plan
        self.address = plan.address
        self.restarts = 0
        self._on_line = on_line
        self._process: subprocess.Process | None = None
        self._reason = ""
        self._stopped = False

    async def run(self) -> Ended:
        """Run the process to its end, passing on what it writes."""
        self._reason = ""
        try:
            process, output = await self._start()
        except OSError as error:
            return Ended(self.plan.name, None, f"cannot start it: {error.strerror}")
        self._process = process
        if self._stopped:  # while it was being started
            self.kill()
        with output:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self._listen(output))
                code = await process.wait()
                await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
                listening.cancel()
        return Ended(self.plan.name, code, self._reason)

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end; kill it where it has not after `grace_s` seconds."""
        self._stopped = True
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
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> tuple[subprocess.Process, io.FileIO]:
        """Start the process; return it and what reads its output."""
        # A pipe of our own: asyncio's would stay open for as long as anybody else holds it.
        reading, writing = os.pipe()
        with ExitStack() as unless_started:
            output = unless_started.enter_context(io.FileIO(reading))
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.plan.command,
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=writing,
                    env=self.plan.environment_at(self.address, self.restarts),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            unless_started.pop_all()
        return process, output

    async def _listen(self, output: io.FileIO) -> None:
        last_word = f"triptych {self.plan.service}: "
        async for line in _lines(output):
            if line.startswith(last_word):
                self._reason = printable(line.removeprefix(last_word))
            else:
                self._on_line(self, line)


async def _lines(output: io.FileIO) -> AsyncIterator[str]:
    """The lines that come through a pipe, each up to its first `_MOST_LINE_BYTES`."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), output
    )
    line = bytearray()
    try:
        while chunk := await stream.read(_READ_BYTES):
            first, *others = chunk.split(b"\n")
            line += first[: _MOST_LINE_BYTES - len(line)]
            for following in others:
                yield line.decode(errors="replace")
                line = bytearray(following)
        if line:
            yield line.decode(errors="replace")
    finally:
        transport.close()
