"""Tests of the Triton kernels, compiled, on this GPU: `python -m tools.gpu_tests`.

They are the tests that run interpreted elsewhere. Most of their time is the compiler's, so several
processes share the GPU, each with a file. Invariant: a file that fails, hangs or lacks a package
does not keep the others from running, and no plugin of pytest is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "kernels" / "triton"
_NEEDED = ("pytest", "hypothesis", "numpy")
_MOST_JOBS = 8
_BUDGET_S = 480.0
_TIMED_OUT = 124
_NOTHING_COLLECTED = 5


def run_file(
    path: Path, arguments: Sequence[str] = (), limit_s: float = _BUDGET_S
) -> subprocess.CompletedProcess[str]:
    """Run the tests of a file on the GPU, in a process of their own that `limit_s` ends."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRIPTYCH_GPU"] = "1"
    # Oracles run on the GPU too, and are to be deterministic there.
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    # Options of plugins that may not be here are unknown then.
    command += ["-W", "ignore::pytest.PytestConfigWarning", str(path), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\nstopped after {limit_s:.0f} s"
            return subprocess.CompletedProcess(command, _TIMED_OUT, output)
    return subprocess.CompletedProcess(command, process.returncode, output)


def run_all(
    files: Sequence[Path],
    jobs: int,
    run: Callable[[Path], subprocess.CompletedProcess[str]] = run_file,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Run files, some at a time, and report the end of each.

    Returns:
        Those that failed.
    """
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, path): path for path in files}
        for done in as_completed(running):
            path, ended = running[done], done.result()
            last = (ended.stdout.strip().splitlines() or ["no output"])[-1]
            report(f"{path.name}: {last}")
            if ended.returncode not in (0, _NOTHING_COLLECTED):
                failed.append(path)
                report(ended.stdout)
    return sorted(failed)


def main(arguments: Sequence[str]) -> int:
    """Run the tests; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_tests", description=__doc__)
    parser.add_argument("--jobs", type=int, default=min(_MOST_JOBS, os.cpu_count() or 1))
    parser.add_argument("-k", dest="keyword", help="tests that match, as pytest takes it")
    parser.add_argument("--budget", type=float, default=_BUDGET_S, help="seconds for all of them")
    options = parser.parse_args(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"tools.gpu_tests: {', '.join(missing)} not installed: install them, or bring wheels "
            "(make gpu WHEELS=folder)",
            file=sys.stderr,
        )
        return 2
    chosen = ["-k", options.keyword] if options.keyword else []
    end = time.monotonic() + options.budget
    failed = run_all(
        sorted(FOLDER.glob("test_*.py")),
        options.jobs,
        lambda path: run_file(path, chosen, max(end - time.monotonic(), 0.0)),
        lambda line: print(line, flush=True),
    )
    print(f"failed: {', '.join(path.name for path in failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
