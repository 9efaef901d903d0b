"""Runs one server and one load generator, and notes what the machine does meanwhile.

Invariant: whatever was started has ended when the block has.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench import processes
from bench.peers.load.generator import Task
from bench.peers.servers.registry import Launch

_READY_S = 900.0
_STOP_S = 30.0
_BETWEEN_LOOKS_S = 0.02


class PeerFailed(Exception):
    """A server or the load generator did not do what is to be measured."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Attributes:
        process: its first.
        started_at_s: when it was started, on the machine's monotonic clock.
    """

    process: subprocess.Popen[str]
    started_at_s: float

    def cpu_s(self) -> float:
        """CPU time of all its processes so far."""
        pids = [self.process.pid, *processes.descendants(self.process.pid)]
        return sum(processes.cpu_s(pid) for pid in pids)

    def resident_mib(self) -> float:
        """Memory of all its processes, what they share counted in each."""
        pids = [self.process.pid, *processes.descendants(self.process.pid)]
        return sum(processes.resident_mib(pid) for pid in pids)


@contextmanager
def served(launch: Launch, port: int, log: IO[bytes]) -> Iterator[Running]:
    """Run a server inside the block.

    Args:
        launch: how.
        port: where it will listen.
        log: takes what it says.

    Raises:
        PeerFailed: it does not become ready.
    """
    output = subprocess.PIPE if launch.ready_line else log
    environment = {**os.environ, **launch.environment}
    started = time.perf_counter()
    process = subprocess.Popen(
        launch.command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,  # so that all it starts can be ended with it
    )
    try:
        if launch.ready_line:
            _await_line(process, launch.ready_line)
        else:
            _await_health(process, port, time.monotonic() + _READY_S)
        yield Running(process, started)
    finally:
        _stop(process)


def _await_line(process: subprocess.Popen[str], expected: str) -> None:
    line = process.stdout.readline() if process.stdout else ""
    if not line.startswith(expected):
        raise PeerFailed("the server ended before it was ready")


def _await_health(process: subprocess.Popen[str], port: int, until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise PeerFailed(f"the server ended with code {process.returncode}")
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5),
        ):
            return  # any other status than 200 is an HTTPError
        time.sleep(_BETWEEN_LOOKS_S)
    raise PeerFailed(f"the server was not ready within {_READY_S:.0f} s")


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):  # the usual case: nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


class LoadProcess:
    """A load generator in a process of its own, ready to send."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, task: Task) -> dict[str, Any]:
        """Run one cell; its figures.

        Raises:
            PeerFailed: the generator ended.
        """
        if self._process.stdin is None:
            raise PeerFailed("the load generator takes no input")
        self._process.stdin.write(task.as_line())
        self._process.stdin.flush()
        figures = json.loads(self.answer())
        if not isinstance(figures, dict):
            raise PeerFailed(f"the load generator answered {figures!r}")
        return figures

    def cpu_s(self) -> float:
        """CPU time it has used so far."""
        return processes.cpu_s(self._process.pid)

    def answer(self) -> str:
        """The next line it says."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise PeerFailed("the load generator ended; its output is above")
        return line


@contextmanager
def load_process(speech: str) -> Iterator[LoadProcess]:
    """A load generator for one protocol, for the time of the block.

    Raises:
        PeerFailed: it cannot start.
    """
    command = [sys.executable, "-m", "bench.peers.load.generator", speech]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        load = LoadProcess(process)
        load.answer()
        try:
            yield load
        finally:
            if process.stdin:
                process.stdin.close()


@dataclass(frozen=True)
class CpuTimes:
    """CPU time of the whole machine since it started, in seconds over all cores."""

    busy_s: float
    stolen_s: float

    def __sub__(self, earlier: CpuTimes) -> CpuTimes:
        return CpuTimes(self.busy_s - earlier.busy_s, self.stolen_s - earlier.stolen_s)


def machine_cpu() -> CpuTimes:
    """CPU times of the machine, from /proc/stat."""
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    ticks = [int(one) for one in line.split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, stolen = ticks
    per_s = os.sysconf("SC_CLK_TCK")
    return CpuTimes((user + nice + system + irq + softirq) / per_s, stolen / per_s)
