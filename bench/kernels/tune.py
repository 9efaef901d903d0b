"""Search for the fastest launch of each kernel on this GPU: `python -m bench.kernels.tune`.

Results go to `kernels/triton/configs/`, where launches are looked up. Invariant: a launch is
written only if its results were the oracle's and it was clearly faster than the present one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.kernels.__main__ import Unready, check_ready, worker_client
from bench.kernels.campaign import Measurer
from bench.kernels.candidates import candidates
from bench.kernels.cases.case import OURS, Case
from bench.kernels.measuring.worker_client import Lost, WorkerClient
from kernels.triton.configs import spell, tuned_file
from kernels.triton.launch import Config

_REP_MS = 5.0
_HOPELESS = 1.5
"""Times the present launch: a launch as slow in one case is not tried in others."""
_CLEARLY = 0.98
"""Share of the present launch's time; a smaller gain is noise."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kernel at one shape, and the cases that launch it."""

    kernel: str
    shape: Mapping[str, int]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest launch found, and its time over the present launch's."""

    config: Config
    ratio: float


def targets(cases: Sequence[Case]) -> list[Target]:
    """Kernels of `cases`, each at every shape in use."""
    found: dict[tuple[str, tuple[tuple[str, int], ...]], list[Case]] = {}
    for case in cases:
        for kernel, shape in case.launches.items():
            found.setdefault((kernel, tuple(shape.items())), []).append(case)
    return [Target(kernel, dict(shape), tuple(own)) for (kernel, shape), own in found.items()]


def search(
    measurer: Measurer, target: Target, end: float, report: Callable[[str], None] = print
) -> Best | None:
    """Try launches that may be faster, until `end` by the monotonic clock.

    Returns:
        The fastest, or None if nothing was clearly faster.
    """
    before = [_time(measurer, case, {}) for case in target.cases]
    if any(math.isinf(each) for each in before):
        report(f"{target.kernel} {dict(target.shape)}: the present launch cannot be measured")
        return None
    best: Best | None = None
    for config in _in_any_order(candidates(target.kernel, target.shape)):
        if time.monotonic() > end:
            report(f"{target.kernel}: no time is left")
            break
        ratio = _ratio(measurer, target, config, before)
        report(f"{target.kernel} {config.options()}: {ratio:.3f}")
        if ratio < (best.ratio if best else _CLEARLY):
            best = Best(config, ratio)
    return best


def _in_any_order(configs: list[Config]) -> list[Config]:
    """Configs in a repeatable random order: a search cut short has seen a bit of everything."""
    return random.Random(0).sample(configs, len(configs))


def _ratio(measurer: Measurer, target: Target, config: Config, before: Sequence[float]) -> float:
    """Geometric mean of the cases' times over those before; infinite if one failed."""
    logs = []
    for case, reference in zip(target.cases, before, strict=True):
        taken = _time(measurer, case, {target.kernel: asdict(config)})
        if math.isinf(taken):
            return taken
        if taken > _HOPELESS * reference:
            return taken / reference
        logs.append(math.log(taken / reference))
    return math.exp(sum(logs) / len(logs))


def _time(measurer: Measurer, case: Case, forced: Mapping[str, Any]) -> float:
    request = {"case": case.name, "contender": OURS, "forced": forced, "rep_ms": _REP_MS}
    try:
        return float(measurer.ask(request).get("median_us", math.inf))
    except Lost:
        return math.inf


def write(path: Path, shape: Mapping[str, int], config: Config) -> None:
    """Write a launch into a file, instead of another for the same shape."""
    known = json.loads(path.read_text()) if path.exists() else []
    entries = [entry for entry in known if entry["shape"] != dict(shape)]
    entries.append({"shape": dict(shape), **asdict(config)})
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    path.write_text(f"[\n{lines}\n]\n")


def tune(
    worker: WorkerClient, chosen: Sequence[Target], budget_s: float, report: Callable[[str], None]
) -> None:
    """Tune targets in their order; time left over by one goes to the others."""
    end = time.monotonic() + budget_s
    for place, target in enumerate(chosen):
        now = time.monotonic()
        best = search(worker, target, now + (end - now) / (len(chosen) - place), report)
        if best is None:
            continue
        path = tuned_file(target.kernel, spell(worker.device["gpu"]), worker.device["triton"])
        write(path, target.shape, best.config)
        report(f"{best.ratio:.3f} of the time before: written to {path.name}")
        # The present worker has cached the earlier launches.
        worker.close()


def main(arguments: Sequence[str]) -> int:
    """Tune; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.tune", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="kernels with one of these names")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds; 480 by default")
    options = parser.parse_args(arguments)
    try:
        check_ready()
    except Unready as reason:
        print(f"bench.kernels.tune: {reason}", file=sys.stderr)
        return 2
    from bench.kernels.cases.all_cases import CASES

    chosen = [each for each in targets(CASES) if not options.only or each.kernel in options.only]
    worker = worker_client()
    try:
        tune(worker, chosen, options.budget, lambda line: print(line, flush=True))
    finally:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
