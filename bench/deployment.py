"""A `triptych serve` of the benchmark's own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from bench import processes

_STOP_S = 30.0
_STEP = "triptych_model_step_seconds"


class BenchFailed(Exception):
    """The deployment did not do what is to be measured."""


@dataclass(frozen=True)
class Steps:
    """Steps of the engine since its start, and their time in seconds."""

    count: float
    seconds: float

    def __sub__(self, earlier: Steps) -> Steps:
        return Steps(self.count - earlier.count, self.seconds - earlier.seconds)


@dataclass(frozen=True)
class Deployment:
    """Four services that are ready.

    Attributes:
        address: the public one.
        metrics_url: of all services' metrics.
        ready_s: seconds from the command to the word that it is ready.
        pid: of the supervisor.
    """

    address: str
    metrics_url: str
    ready_s: float
    pid: int

    def resident_mib(self) -> dict[str, float]:
        """Resident memory by process, in MiB; the processes below a service count as its own."""
        command = [sys.executable, "-m", "triptych", "status", "--json", "--address", self.address]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        pids = {one["name"]: one["pid"] for one in json.loads(found)["services"]}
        used = {"supervisor": processes.resident_mib(self.pid)}
        for name, pid in pids.items():
            used[name] = processes.resident_mib(pid)
            workers = [processes.resident_mib(one) for one in processes.descendants(pid)]
            if workers:
                used[f"{name}'s {len(workers)} workers, together"] = sum(workers)
        return used

    def idle_cpu_percent(self, seconds: float) -> float:
        """CPU that all processes use together while nothing is asked, in percent of one core."""
        pids = [self.pid, *processes.descendants(self.pid)]
        before = sum(processes.cpu_s(pid) for pid in pids)
        time.sleep(seconds)
        return 100 * (sum(processes.cpu_s(pid) for pid in pids) - before) / seconds

    def steps(self) -> Steps:
        """Steps of the engine so far, by its own metrics."""
        with urllib.request.urlopen(self.metrics_url) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = {
                sample.name: sample.value
                for family in families
                if family.name == _STEP
                for sample in family.samples
                if not sample.name.endswith("_bucket")
            }
        return Steps(samples[f"{_STEP}_count"], samples[f"{_STEP}_sum"])


@contextmanager
def deployed(model: Path, log: IO[bytes]) -> Iterator[Deployment]:
    """Serve `model` inside the block.

    Args:
        model: checkpoint folder.
        log: takes what the services log.

    Raises:
        BenchFailed: it does not become ready.
    """
    command = [sys.executable, "-m", "triptych", "serve", "--model", str(model)]
    command += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            address = _read(process, "ready on ")
            ready_s = time.perf_counter() - started
            yield Deployment(address, _read(process, "metrics on "), ready_s, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_S)


def _read(process: subprocess.Popen[str], expected: str) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line.startswith(expected):
        raise BenchFailed("`triptych serve` ended before it was ready; its log is above")
    return line.removeprefix(expected).strip()
