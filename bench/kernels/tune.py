"""Find the fastest launch of each kernel on the GPU at hand: `python -m bench.kernels.tune`.

What is found goes to `kernels/triton/configs/`, where launches are looked up. Invariant: a launch
is written only if its results were the oracle's and it was clearly faster than what was chosen.
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

from bench.kernels.__main__ import Unready, check_ready
from bench.kernels.campaign import Asked
from bench.kernels.candidates import candidates
from bench.kernels.errand import Errand, Lost
from bench.kernels.timing import Pace
from bench.kernels.trial import OURS, Case
from kernels.triton.configs import spell, tuned_file
from kernels.triton.launch import Config

_PACE = Pace(replays=15, graph_us=2000.0)
_HOPELESS = 1.5
"""Of it: a launch that is so slow in one case is not tried in others."""
_CLEARLY = 0.98
"""Of the time of what was chosen before: less is noise."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kernel at one shape, and the cases that it is judged by."""

    kernel: str
    shape: Mapping[str, int]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest launch found, and its time over that of what was chosen before."""

    config: Config
    ratio: float


def targets(cases: Sequence[Case]) -> list[Target]:
    """Every kernel at every shape that cases launch it at."""
    found: dict[tuple[str, tuple[tuple[str, int], ...]], list[Case]] = {}
    for case in cases:
        for kernel, shape in case.launches.items():
            found.setdefault((kernel, tuple(shape.items())), []).append(case)
    return [Target(kernel, dict(shape), tuple(own)) for (kernel, shape), own in found.items()]


def search(
    asked: Asked, target: Target, end: float, tell: Callable[[str], None] = print
) -> Best | None:
    """Try what may be faster, until `end` by the monotonic clock.

    Returns:
        The fastest, or None if nothing was clearly faster.
    """
    before = [_time(asked, case, {}) for case in target.cases]
    if any(math.isinf(each) for each in before):
        tell(f"{target.kernel} {dict(target.shape)}: what is chosen now cannot be measured")
        return None
    best: Best | None = None
    for config in _in_any_order(candidates(target.kernel, target.shape)):
        if time.monotonic() > end:
            tell(f"{target.kernel}: no time is left")
            break
        ratio = _ratio(asked, target, config, before)
        tell(f"{target.kernel} {config.options()}: {ratio:.3f}")
        if ratio < (best.ratio if best else _CLEARLY):
            best = Best(config, ratio)
    return best


def _in_any_order(configs: list[Config]) -> list[Config]:
    """Shuffled, the same way every time: a search cut short has seen a bit of everything."""
    return random.Random(0).sample(configs, len(configs))


def _ratio(asked: Asked, target: Target, config: Config, before: Sequence[float]) -> float:
    """Geometric mean of the cases' times, over those before; infinite where one failed."""
    logs = []
    for case, reference in zip(target.cases, before, strict=True):
        taken = _time(asked, case, {target.kernel: asdict(config)})
        if math.isinf(taken):
            return taken
        if taken > _HOPELESS * reference:
            return taken / reference
        logs.append(math.log(taken / reference))
    return math.exp(sum(logs) / len(logs))


def _time(asked: Asked, case: Case, forced: Mapping[str, Any]) -> float:
    request = {"case": case.name, "contender": OURS, "forced": forced, "pace": asdict(_PACE)}
    try:
        return float(asked.ask(request).get("median_us", math.inf))
    except Lost:
        return math.inf


def write(path: Path, shape: Mapping[str, int], config: Config) -> None:
    """Put a launch into a file, in the place of another for the same shape."""
    known = json.loads(path.read_text()) if path.exists() else []
    entries = [entry for entry in known if entry["shape"] != dict(shape)]
    entries.append({"shape": dict(shape), **asdict(config)})
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    path.write_text(f"[\n{lines}\n]\n")


def tune(
    errand: Errand, chosen: Sequence[Target], budget_s: float, tell: Callable[[str], None]
) -> None:
    """Tune targets in their order; what one leaves of its share of the time, the others get."""
    end = time.monotonic() + budget_s
    for place, target in enumerate(chosen):
        now = time.monotonic()
        best = search(errand, target, now + (end - now) / (len(chosen) - place), tell)
        if best is None:
            continue
        path = tuned_file(target.kernel, spell(errand.device["gpu"]), errand.device["triton"])
        write(path, target.shape, best.config)
        tell(f"{best.ratio:.3f} of the time before: written to {path.name}")
        # This worker has read what was tuned before.
        errand.close()


def main(arguments: Sequence[str]) -> int:
    """Tune; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels.tune", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="kernels with one of these names")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds; 480 if not told")
    options = parser.parse_args(arguments)
    try:
        check_ready()
    except Unready as reason:
        print(f"bench.kernels.tune: {reason}", file=sys.stderr)
        return 2
    from bench.kernels.roster import CASES

    chosen = [each for each in targets(CASES) if not options.only or each.kernel in options.only]
    errand = Errand()
    try:
        tune(errand, chosen, options.budget, lambda line: print(line, flush=True))
    finally:
        errand.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
