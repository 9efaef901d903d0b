"""The machine's limits: how fast memory is read, how fast matrices are multiplied.

`python -m bench.peers.peak READER` prints both as JSON; it is a process of its own so that nothing
else holds its cores. Each is the best of several tries: a limit is not an average.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.running import machine_cpu
from bench.peers.servers import stages

if TYPE_CHECKING:
    import torch

_SOURCE = Path(__file__).with_name("read.c")
_TRIES = 7
_PRODUCT = (512, 1280, 7168)  # rows, inner, columns: the widest of the dense model's layers
_PRODUCTS_PER_TRY = 10


def reader(root: Path) -> Path:
    """The program that reads memory, built for this machine below `root`.

    Raises:
        StageFailed: it cannot be compiled.
    """
    built = root / "read"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        options = ("-O3", "-march=native", "-fopenmp")
        stages.run(root / "logs" / "peak.log", "cc", *options, _SOURCE, "-o", built)
    return built


def limits(root: Path) -> dict[str, float]:
    """Both limits, taken now, and the share of the cores that others used meanwhile.

    Raises:
        StageFailed: the program that reads memory cannot be compiled.
    """
    command = [sys.executable, "-m", "bench.peers.peak", str(reader(root))]
    machine, own, started = machine_cpu(), _children_s(), time.perf_counter()
    found = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    all_cores_s = (time.perf_counter() - started) * len(os.sched_getaffinity(0))
    others_s = (machine_cpu() - machine).busy_s - (_children_s() - own)
    return {**json.loads(found), "others_share": max(0.0, others_s) / all_cores_s}


def _children_s() -> float:
    """CPU time of this process's children that have ended, theirs included."""
    times = os.times()
    return times.children_user + times.children_system


def product_gflop_per_s() -> float:
    """A product of bfloat16 with the weights packed as oneDNN likes them, or of float32.

    The faster of the two: a processor that cannot multiply bfloat16 computes in float32.
    """
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with torch.inference_mode():
        best_s = min(_product_s(dtype) for dtype in (torch.bfloat16, torch.float32))
    return 2 * math.prod(_PRODUCT) / best_s / 1e9


def _product_s(dtype: torch.dtype) -> float:
    import torch

    rows, inner, columns = _PRODUCT
    left, weights = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    multiply = partial(torch.nn.functional.linear, left, weights)
    # oneDNN packs no weights that the processor cannot multiply.
    with contextlib.suppress(RuntimeError):
        packed = torch.ops.mkldnn._reorder_linear_weight(weights, rows)
        multiply = partial(torch.ops.mkldnn._linear_pointwise, left, packed, None, "none", [], "")

    def several() -> None:
        for _ in range(_PRODUCTS_PER_TRY):
            multiply()

    return _best_s(several) / _PRODUCTS_PER_TRY


def _best_s(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main(program: str) -> None:
    """Print both limits."""
    read = subprocess.run([program], capture_output=True, check=True, text=True).stdout.split()[0]
    found = {"read_gb_per_s": float(read), "product_gflop_per_s": product_gflop_per_s()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
