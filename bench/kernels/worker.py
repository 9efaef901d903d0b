"""The process that measures: `python -m bench.kernels.worker`, a request a line, an answer a line.

It measures one contender of one case at a time and has no opinion on failure: it dies of what it
cannot do, for a GPU that has seen a bad address serves nobody else in the process. Invariant: what
others print does not get among the answers.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, TextIO

import torch
from triton.runtime.errors import OutOfResources

from bench.kernels.device import Device, Gpu
from bench.kernels.roster import case_named
from bench.kernels.timing import Pace, sets_needed, time_calls
from bench.kernels.trial import OURS, Case, Place
from kernels.triton.configs import Config, forced

Answer = dict[str, Any]

_COPY_BYTES = 2**30
_MATMUL_SIDE = 8192


def copy_ceiling(device: Device, pace: Pace, size: int = _COPY_BYTES) -> float:
    """Bytes per second, read and written, of a copy as large as memory is fast."""
    sets = [(_noise(device, seed, size // 2), _noise(device, 9, size // 2)) for seed in range(2)]
    calls = [lambda pair=pair: pair[1].copy_(pair[0]) for pair in sets]
    return 2 * size / (time_calls(device, calls, pace).median_us * 1e-6)


def matmul_ceiling(device: Device, pace: Pace, side: int = _MATMUL_SIDE) -> float:
    """FLOP per second of a large bfloat16 matrix product."""
    sets = [[_noise(device, seed + i, side, side) for i in range(3)] for seed in (0, 3)]
    calls = [lambda abc=abc: torch.matmul(abc[0], abc[1], out=abc[2]) for abc in sets]
    return 2 * side**3 / (time_calls(device, calls, pace).median_us * 1e-6)


def _noise(device: Device, seed: int, *shape: int) -> torch.Tensor:
    return Place(device.kind, seed).normal(*shape)


def measure(device: Device, case: Case, contender: str, pace: Pace) -> Answer:
    """Check a contender against the oracle, and time it.

    Returns:
        Its figures, or under "failed" why there are none.
    """
    make = case.make
    trials = [make(Place(device.kind))]
    sets = sets_needed(device, trials[0].moved_bytes)
    trials += [make(Place(device.kind, seed)) for seed in range(1, sets)]
    calls = [trial.contenders[contender]() for trial in trials]
    answer: Answer = {"bytes": trials[0].moved_bytes, "flops": trials[0].flops}
    if contender == OURS or not case.drawn:
        want = trials[0].want()
        answer["error"] = error = _relative_error(trials[0].part(calls[0]()), want)
        if not error <= case.tolerance:
            return {"failed": f"relative error {error:.2g}, at most {case.tolerance:g}"}
    return {**answer, **asdict(time_calls(device, calls, pace))}


def _relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.double(), want.to(got.device, torch.float64)
    if got.shape != want.shape:
        return float("nan")
    return float((got - want).norm() / want.norm())


def answer(device: Device, request: Mapping[str, Any]) -> Answer:
    """Do what is asked.

    Args:
        device: to measure on.
        request: `pace`, and `ceiling` ("copy" or "matmul") or `case` and `contender`; with
            `forced`, launches by kernel, which are used instead of those chosen.
    """
    pace = Pace(**request.get("pace", {}))
    if request.get("ceiling"):
        ceiling = copy_ceiling if request["ceiling"] == "copy" else matmul_ceiling
        return {"per_s": ceiling(device, pace)}
    with ExitStack() as launches:
        for kernel, config in request.get("forced", {}).items():
            launches.enter_context(forced(kernel, Config(**config)))
        try:
            return measure(device, case_named(request["case"]), request["contender"], pace)
        except (OutOfResources, torch.OutOfMemoryError) as reason:
            return {"failed": f"{type(reason).__name__}: {str(reason).splitlines()[0]}"}


def serve(device: Device, requests: Iterable[str], answers: TextIO) -> None:
    """Answer until there are no more requests."""
    for line in requests:
        request = json.loads(line)
        print(json.dumps(answer(device, request)), file=answers, flush=True)
        if device.kind == "cuda":
            torch.cuda.empty_cache()


def _own_output() -> TextIO:
    """The answers' way out; what is printed from here on goes the way of errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Say what GPU this is, then answer."""
    answers = _own_output()
    gpu = Gpu()
    print(json.dumps(gpu.describe()), file=answers, flush=True)
    serve(gpu, sys.stdin, answers)


if __name__ == "__main__":
    main()
