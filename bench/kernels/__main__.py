"""Measure the kernels on the GPU at hand: `python -m bench.kernels`, or `make gpu`.

Results go to `bench/results/<gpu>.json`; those of a narrowed run, which are not the whole, to
`build/kernels/`. The status is 1 where a kernel of ours failed, 2 where nothing can be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kernels.triton.configs import kernels_hash

_QUICK_REPLAYS = 8


class Unready(Exception):
    """Kernels cannot be measured here; the message says what to do."""


def check_ready() -> None:
    """Make sure that kernels can be compiled and run here.

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
    about.add_argument("--check", action="store_true", help="say whether a GPU can be used")
    about.add_argument("--list", action="store_true", help="print the cases")
    about.add_argument("--table", action="store_true", help="print what was measured")
    about.add_argument("--docs", action="store_true", help="write it into docs/kernels.md")
    parser.add_argument("--only", nargs="+", default=[], help="cases with one of these in the name")
    parser.add_argument("--quick", action="store_true", help="few replays, and ours alone")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds; 420 if not told")
    parser.add_argument("--out", type=Path, help="where results go")
    return parser


def _measure(options: argparse.Namespace, command: str) -> int:
    from bench.kernels import campaign, results
    from bench.kernels.errand import Errand, Lost
    from bench.kernels.roster import CASES
    from bench.kernels.timing import Pace

    cases = [case for case in CASES if _asked(case.name, options.only)]
    if not cases:
        raise Unready(f"no case has any of {', '.join(options.only)} in its name: see --list")
    pace = Pace(replays=_QUICK_REPLAYS) if options.quick else Pace()
    settings = campaign.Settings(pace, not (options.quick or options.no_peers), options.budget)
    folder = results.FOLDER
    if options.only or options.quick or options.no_peers:
        folder = results.ROOT / "build" / "kernels"

    def keep(found: campaign.Findings) -> None:
        path = options.out or results.path_for(found.device["gpu"], folder)
        results.write(results.of(found, command), path)

    errand = Errand()
    try:
        found = campaign.run(errand, cases, settings, keep, lambda line: print(line, flush=True))
    except Lost as reason:
        raise Unready(f"the GPU measures nothing: {reason}") from reason
    finally:
        errand.close()
    failed = found.failed()
    print(f"written to {options.out or results.path_for(found.device['gpu'], folder)}")
    for each in failed:
        print(f"failed: {each}")
    return 1 if failed else 0


def _asked(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def _tell(options: argparse.Namespace) -> None:
    from bench.kernels import results, table
    from bench.kernels.roster import CASES

    if options.docs:
        table.write(CASES)
    elif options.table:
        print(table.tables(CASES, results.read_all()))
    else:
        print("\n".join(case.name for case in CASES if _asked(case.name, options.only)))


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask; the exit status."""
    options = _parser().parse_args(arguments)
    if options.hash:
        print(kernels_hash())
        return 0
    try:
        if options.list or options.table or options.docs:
            _tell(options)
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
