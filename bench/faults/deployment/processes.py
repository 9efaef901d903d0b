"""Processes that a deployment has at this moment, read from /proc.

Only what descends from the deployment's own root is ever seen, so nothing else can be hit.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import processes as machine_processes

_SERVICES = {
    "router": "router",
    "tokenizer_svc": "tokenizer",
    "tokenizer_svc.worker": "tokenizer worker",
    "model_svc": "model",
    "detokenizer_svc": "detokenizer",
}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOOK_AGAIN_S = 0.01
_BACK_S = 60.0


class NotBack(Exception):
    """A process that was to be started again was not."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A part that some process plays: a service, of the first replica or another."""

    service: str
    replica: int = 0

    def __str__(self) -> str:
        return f"{self.service} {self.replica + 1}" if self.replica else self.service


ROUTER = Place("router")
TOKENIZER = Place("tokenizer")
WORKER = Place("tokenizer worker")
MODEL = Place("model")
DETOKENIZER = Place("detokenizer")
OTHER_MODEL = Place("model", 1)
OTHER_DETOKENIZER = Place("detokenizer", 1)


@dataclass(frozen=True, slots=True)
class Process:
    """A running process: its id, where it listens, and seconds since it was started."""

    pid: int
    listen: str
    started_s: float

    @property
    def age_s(self) -> float:
        """Since it was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started_s


class ProcessTable:
    """The processes below one root."""

    def __init__(self, root_pid: int) -> None:
        self._root_pid = root_pid
        # Replicas are numbered by their addresses, which outlive their processes.
        self._addresses: dict[str, set[str]] = {}
        self._files: set[Path] = set()

    def processes(self) -> dict[Place, Process]:
        """Processes that run now; one worker stands for all."""
        found = []
        for pid in machine_processes.descendants(self._root_pid):
            with suppress(OSError):
                service = _service(pid)
                if service is not None:
                    found.append((service, _process(pid, service)))
        for service, process in found:
            self._addresses.setdefault(service, set()).add(process.listen)
        return {Place(name, self._number(name, one.listen)): one for name, one in found}

    def find(self, place: Place) -> Process | None:
        """Process at `place` now."""
        return self.processes().get(place)

    async def successor(self, place: Place, pid: int) -> Process:
        """Wait for a process at `place` after the one with `pid` has ended; 0: any.

        Raises:
            NotBack: there is none a minute later.
        """
        if pid:
            await _ended(pid)
        deadline = time.monotonic() + _BACK_S
        while time.monotonic() < deadline:
            process = self.find(place)
            if process is not None and process.pid != pid:
                return process
            await asyncio.sleep(_LOOK_AGAIN_S)
        raise NotBack(f"the {place} was not started again within {_BACK_S:.0f} s")

    def note_files(self) -> None:
        """Remember the shared files that are mapped now."""
        for process in self.processes().values():
            self._files |= set(_mapped(process.pid))

    def left_files(self) -> list[Path]:
        """Remembered files that still exist."""
        return sorted(path for path in self._files if path.exists())

    def _number(self, service: str, listen: str) -> int:
        if service not in (MODEL.service, DETOKENIZER.service):
            return 0
        return sorted(self._addresses[service]).index(listen)


async def _ended(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _service(pid: int) -> str | None:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return _SERVICES.get(words[2]) if len(words) > 2 and words[1] == "-m" else None


def _process(pid: int, service: str) -> Process:
    variable = f"TRIPTYCH_{service.upper()}_LISTEN="
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    listens = (one.removeprefix(variable) for one in environment if one.startswith(variable))
    # The name in parentheses may hold spaces; the fields after it do not.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return Process(pid, next(listens, ""), int(fields[19]) / _TICKS_PER_S)


def _mapped(pid: int) -> Iterator[Path]:
    """Files of ours in shared memory that a process has mapped."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            path = line.split(maxsplit=5)[-1]
            if path.startswith("/dev/shm/triptych-") and not path.endswith(" (deleted)"):
                yield Path(path)
