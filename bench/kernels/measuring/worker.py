"""Measurements, one at a time, in a process of their own.

Invariant: an error of the GPU leaves the process unfit, so every error but a launch that does not
fit is raised.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from triton.runtime.errors import OutOfResources

from bench.kernels.cases.all_cases import case_named
from bench.kernels.cases.case import OURS, Case, Place
from bench.kernels.measuring.timing import REP_MS, Device, gpu, sets_needed, time_calls
from kernels.triton.configs import Config, forced, triton_version

Answer = dict[str, Any]

_COPY_BYTES = 2**30
_MATMUL_SIDE = 8192


def describe() -> dict[str, str]:
    """Names of the GPU and of the software that runs on it."""
    return {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": triton_version(),
    }


def copy_ceiling(device: Device, rep_ms: float, size: int = _COPY_BYTES) -> float:
    """Bytes per second, read and written, of a large copy."""
    sets = [(_noise(device, seed, size // 2), _noise(device, 9, size // 2)) for seed in range(2)]
    calls = [lambda pair=pair: pair[1].copy_(pair[0]) for pair in sets]
    return 2 * size / (time_calls(device, calls, rep_ms).median_us * 1e-6)


def matmul_ceiling(device: Device, rep_ms: float, side: int = _MATMUL_SIDE) -> float:
    """FLOP per second of a large bfloat16 matrix product."""
    sets = [[_noise(device, seed + i, side, side) for i in range(3)] for seed in (0, 3)]
    calls = [lambda abc=abc: torch.matmul(abc[0], abc[1], out=abc[2]) for abc in sets]
    return 2 * side**3 / (time_calls(device, calls, rep_ms).median_us * 1e-6)


def _noise(device: Device, seed: int, *shape: int) -> torch.Tensor:
    return Place(device.kind, seed).normal(*shape)


def measure(device: Device, case: Case, contender: str, rep_ms: float) -> Answer:
    """Check a contender against the oracle, and time it.

    Returns:
        Its figures, or the reason for their absence under "failed".
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
    return {**answer, **asdict(time_calls(device, calls, rep_ms))}


def _relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.double(), want.to(got.device, torch.float64)
    if got.shape != want.shape:
        return float("nan")
    return float((got - want).norm() / want.norm())


def answer(request: Mapping[str, Any]) -> Answer:
    """Measure on the GPU.

    Args:
        request: `rep_ms`, and `ceiling` ("copy" or "matmul") or `case` and `contender`; with
            `forced`, launches by kernel, used instead of those chosen.
    """
    found = answer_on(gpu(), request)
    torch.cuda.empty_cache()
    return found


def answer_on(device: Device, request: Mapping[str, Any]) -> Answer:
    """Measure like `answer`, on any device."""
    rep_ms = request.get("rep_ms", REP_MS)
    if request.get("ceiling"):
        ceiling = copy_ceiling if request["ceiling"] == "copy" else matmul_ceiling
        return {"per_s": ceiling(device, rep_ms)}
    with ExitStack() as launches:
        for kernel, config in request.get("forced", {}).items():
            launches.enter_context(forced(kernel, Config(**config)))
        try:
            return measure(device, case_named(request["case"]), request["contender"], rep_ms)
        except (OutOfResources, torch.OutOfMemoryError) as reason:
            return {"failed": f"{type(reason).__name__}: {str(reason).splitlines()[0]}"}
