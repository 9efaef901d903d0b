"""The machine's limits: how fast memory is read, how fast bfloat16 matrices are multiplied.

`python -m bench.peers.peak` prints both as JSON; it is a process of its own so that nothing else
holds its cores. Each is the best of several tries: a limit is not an average.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import torch

_READ_BYTES = 1 << 30
_TRIES = 7
_PRODUCT = (512, 1280, 7168)  # rows, inner, columns: the widest of the dense model's layers
_PRODUCTS_PER_TRY = 10


def read_gb_per_s() -> float:
    """Reading 1 GiB once, with all cores."""
    # A sum of integers is little else than reading: one addition for eight bytes.
    words = torch.ones(_READ_BYTES // 8, dtype=torch.int64)
    return _READ_BYTES / _best_s(lambda: words.sum()) / 1e9


def product_gflop_per_s() -> float:
    """A bfloat16 product with the weights packed as oneDNN likes them."""
    rows, inner, columns = _PRODUCT
    left = torch.randn(rows, inner).to(torch.bfloat16)
    weights = torch.randn(columns, inner).to(torch.bfloat16)
    packed = torch.ops.mkldnn._reorder_linear_weight(weights, rows)

    def multiply() -> None:
        for _ in range(_PRODUCTS_PER_TRY):
            torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")

    return 2 * rows * inner * columns * _PRODUCTS_PER_TRY / _best_s(multiply) / 1e9


def _best_s(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Print both limits."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with torch.inference_mode():
        limits = {"read_gb_per_s": read_gb_per_s(), "product_gflop_per_s": product_gflop_per_s()}
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
