"""Check the machine code of every kernel, with the Triton installed or with others.

    python -m tools.compile_kernels
    python -m tools.compile_kernels 3.9.0

What is checked stands in tests/kernel_aot; no GPU is needed. Invariant: other versions are
installed under build/ and nowhere else, and one that cannot be had is skipped, and said to be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build"


class Unreachable(Exception):
    """A version of Triton cannot be had here; the message says why."""


def fetch(version: str, folder: Path) -> Path:
    """Install a version of Triton by itself, unless that was done before.

    Args:
        version: as the package index spells it.
        folder: gets a folder for it.

    Returns:
        What to put on PYTHONPATH.

    Raises:
        Unreachable: pip could not install it.
    """
    home = folder / f"triton-{version}"
    if home.exists():
        return home
    # Whole or not at all: under its own name only once pip is done.
    unfinished = folder / f"triton-{version}.unfinished"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--upgrade", "--target", str(unfinished), f"triton=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unreachable((done.stderr.strip().splitlines() or ["pip failed without a word"])[-1])
    return unfinished.rename(home)


def check(path: Path | None) -> int:
    """Run the check, with another Triton from `path` if one is given; its exit status."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "pytest", "--quiet", "tests/kernel_aot"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    """Check with each version; the status is that of the first that failed."""
    parser = argparse.ArgumentParser(description="Check the machine code of every kernel.")
    parser.add_argument("versions", nargs="*", help="of Triton; none: the one installed")
    versions = parser.parse_args().versions
    if not versions:
        return check(None)
    statuses = []
    for version in versions:
        try:
            path = fetch(version, FOLDER)
        except Unreachable as reason:
            print(f"skipped Triton {version}: {reason}")
        else:
            print(f"with Triton {version}:", flush=True)
            statuses.append(check(path))
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
