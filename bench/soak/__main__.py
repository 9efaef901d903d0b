"""Mixed load with hostile inputs: `python -m bench.soak --minutes 30`.

Ordinary streams run beside clients that send what a server has to refuse. The exit code is 1 if a
stream failed or paused for longer than the limit, a process ended, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench import machine, processes
from bench.deployment import Deployment, deployed
from bench.faults.deployment.running import ROOT
from bench.soak.ordinary import Seen, watch

MOST_GAP_S = 0.3
MOST_GROWTH_MIB = 64
_STREAMS = 4
_SAMPLE_EVERY_S = 10.0
_SETTLING = 0.25  # of the run; memory that is taken in it is not growth


@dataclass
class Memory:
    """Resident memory of each process over time, in MiB.

    Attributes:
        samples: by process id, in order.
        ended: processes that were there at first and ended; tokenizer workers that were replaced
            for their size are among them.
    """

    samples: dict[int, list[float]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def sample(self, pids: Sequence[int]) -> None:
        """Add a sample of `pids`."""
        self.ended |= self.samples.keys() - set(pids)
        for pid in pids:
            try:
                self.samples.setdefault(pid, []).append(processes.resident_mib(pid))
            except OSError:
                self.ended.add(pid)

    def growth_mib(self) -> dict[int, float]:
        """Growth of each process's memory above its highest in the settling time."""
        grown = {}
        for pid, samples in self.samples.items():
            settled = max(1, int(len(samples) * _SETTLING))
            grown[pid] = samples[-1] - max(samples[:settled])
        return grown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the findings; the exit code is 0 if all held."""
    options = _parse(arguments)
    with tempfile.TemporaryFile() as log, deployed(ROOT / "models" / "demo", log) as deployment:
        seconds = 60 * options.minutes
        seeds = range(options.seed, options.seed + options.hostile)
        services = _services(deployment)
        seen, memory = Seen(), Memory()
        with _hostile(deployment.address, seconds, seeds) as clients:
            asyncio.run(_watch(deployment, seconds, seen, memory))
            answered = [json.loads(one.communicate()[0]) for one in clients]
        faults = _judge(seen, memory, services, deployment)
    _print(seen, memory, answered, faults)
    return 1 if faults else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--hostile", type=int, default=1, help="clients that send hostile inputs")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser.parse_args(arguments)


@contextmanager
def _hostile(
    address: str, seconds: float, seeds: Iterable[int]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run a client that sends hostile inputs for each seed; none outlives the block."""
    command = [sys.executable, "-m", "bench.soak.hostile", address, str(seconds)]
    with ExitStack() as opened:
        clients = []
        for seed in seeds:
            client = subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True)
            clients.append(opened.enter_context(client))
            opened.callback(client.kill)
        yield clients


def _services(deployment: Deployment) -> dict[str, int]:
    """Process ids by service."""
    command = [sys.executable, "-m", "triptych", "status", "--json"]
    command += ["--address", deployment.address]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {one["name"]: one["pid"] for one in json.loads(found)["services"]}


async def _watch(deployment: Deployment, seconds: float, seen: Seen, memory: Memory) -> None:
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample(deployment.pid, memory))
        await watch(deployment.address, _STREAMS, seconds, seen)
        sampling.cancel()


async def _sample(pid: int, memory: Memory) -> None:
    while True:
        memory.sample([pid, *processes.descendants(pid)])
        await asyncio.sleep(_SAMPLE_EVERY_S)


def _judge(
    seen: Seen, memory: Memory, services: dict[str, int], deployment: Deployment
) -> list[str]:
    faults = list(dict.fromkeys(seen.failures))
    for name, times in (("gap", seen.gaps_s), ("health check", seen.checks_s)):
        if max(times, default=0.0) > MOST_GAP_S:
            faults.append(f"the longest {name} took {max(times):.2f} s")
    alive = {deployment.pid, *processes.descendants(deployment.pid)}
    faults += [f"the {name} ended" for name, pid in services.items() if pid not in alive]
    faults += [
        f"process {pid} grew by {grown:.0f} MiB"
        for pid, grown in memory.growth_mib().items()
        if grown > MOST_GROWTH_MIB and pid not in memory.ended
    ]
    return faults


def _print(
    seen: Seen, memory: Memory, answered: Sequence[dict[str, dict[str, object]]], faults: list[str]
) -> None:
    print(machine.describe())
    for name, times in (("gaps", seen.gaps_s), ("health checks", seen.checks_s)):
        ordered = sorted(times) or [0.0]
        middle, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.999)]
        print(
            f"{name}: {len(times)}, median {1000 * middle:.1f} ms, "
            f"99.9 % {1000 * late:.1f} ms, longest {1000 * ordered[-1]:.0f} ms"
        )
    print(f"streams that ended: {seen.streams}, failed: {len(seen.failures)}")
    for pid, samples in memory.samples.items():
        found = "ended" if pid in memory.ended else f"{samples[-1]:.0f}"
        print(f"process {pid}: {samples[0]:.0f} MiB at first, {max(samples):.0f} at most, {found}")
    for one in answered:
        for name, answer in sorted(one.items()):
            print(f"{name}: {answer['codes']}, slowest {answer['slowest_s']:.1f} s")
    print(*(faults or ["all held"]), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
