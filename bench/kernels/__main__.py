"""Measure the kernels on the GPU at hand: `python -m bench.kernels`, or `make gpu`.

Results go to `bench/results/<gpu>.json`, those of a narrowed run to `build/kernels/`. The status is
1 if a kernel of ours failed, 2 if nothing can be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.triton.configs import kernels_hash

if TYPE_CHECKING:
    from bench.kernels.measuring.worker_client import WorkerClient


class Unready(Exception):
    """Kernels cannot be measured here; the message says what to do."""


def check_ready() -> None:
    """Check that kernels can be compiled and run here.

    Raises:
        Unready: they cannot.
    """
    for name in ("torch", "triton", "numpy"):
        if importlib.util.find_spec(name) is None:
            raise Unready(
                f"{name} is not installed: run with a Python that has it, and a CUDA "
                "build of PyTorch"
            )
    import torch

    if not torch.cuda.is_available():
        raise Unready(
            "PyTorch finds no GPU, and nothing else can say how fast kernels are: run this on a "
            "machine with one, with a CUDA build of PyTorch (make gpu PYTHON=…)"
        )
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise Unready("TRITON_INTERPRET is set, so kernels would be interpreted: unset it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    about = parser.add_mutually_exclusive_group()
    about.add_argument("--hash", action="store_true", help="print the hash of today's kernels")
    about.add_argument("--check", action="store_true", help="fail unless a GPU can be used")
    about.add_argument("--list", action="store_true", help="print the cases")
    about.add_argument("--table", action="store_true", help="print the tables")
    about.add_argument("--docs", action="store_true", help="write them into docs/kernels.md")
    parser.add_argument("--only", nargs="+", default=[], help="cases with one of these in the name")
    parser.add_argument("--quick", action="store_true", help="short graphs, our kernels only")
    parser.add_argument("--no-peers", action="store_true", help="our kernels only")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds; 420 by default")
    parser.add_argument("--out", type=Path, help="file for the results")
    return parser


def worker_client() -> WorkerClient:
    """Client of a process that measures on the GPU."""
    from bench.kernels.measuring import worker
    from bench.kernels.measuring.worker_client import WorkerClient

    return WorkerClient(worker.describe, worker.answer)


def _measure(options: argparse.Namespace, command: str) -> int:
    from bench.kernels import campaign, results
    from bench.kernels.cases.all_cases import CASES
    from bench.kernels.measuring.timing import QUICK_REP_MS, REP_MS
    from bench.kernels.measuring.worker_client import Lost

    cases = [case for case in CASES if _chosen(case.name, options.only)]
    if not cases:
        raise Unready(f"no case has any of {', '.join(options.only)} in its name: see --list")
    rep_ms = QUICK_REP_MS if options.quick else REP_MS
    settings = campaign.Settings(rep_ms, not (options.quick or options.no_peers), options.budget)
    folder = results.FOLDER
    if options.only or options.quick or options.no_peers:
        folder = results.ROOT / "build" / "kernels"

    def save(found: campaign.Findings) -> None:
        path = options.out or results.path_for(found.device["gpu"], folder)
        results.write(results.of(found, command), path)

    worker = worker_client()
    try:
        found = campaign.run(worker, cases, settings, save, lambda line: print(line, flush=True))
    except Lost as reason:
        raise Unready(f"the GPU measures nothing: {reason}") from reason
    finally:
        worker.close()
    failed = found.failed()
    print(f"written to {options.out or results.path_for(found.device['gpu'], folder)}")
    for each in failed:
        print(f"failed: {each}")
    return 1 if failed else 0


def _chosen(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def _print(options: argparse.Namespace) -> None:
    from bench.kernels import report, results
    from bench.kernels.cases.all_cases import CASES

    if options.docs:
        report.write(CASES)
    elif options.table:
        print(report.tables(CASES, results.read_all()))
    else:
        print("\n".join(case.name for case in CASES if _chosen(case.name, options.only)))


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(arguments)
    if options.hash:
        print(kernels_hash())
        return 0
    try:
        if options.list or options.table or options.docs:
            _print(options)
            return 0
        check_ready()
        if options.check:
            return 0
        return _measure(options, " ".join(("python -m bench.kernels", *arguments)))
    except Unready as reason:
        print(f"bench.kernels: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
