"""Runs the commands that fetch, build and convert, and keeps what they say.

Invariant: a stage leaves its result under its final name only when it has succeeded, so a run that
was cut short is taken up where it ended.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


class StageFailed(Exception):
    """A command that prepares the comparison failed; says where its output is."""


def run(log: Path, *command: str | Path) -> None:
    """Run a command to its end, its output appended to `log`.

    Raises:
        StageFailed: its exit code is not 0, or there is no such program.
    """
    words = [str(word) for word in command]
    print(f"$ {' '.join(words)}", file=sys.stderr)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise StageFailed(f"{error}; its output is in {log}") from error


def new_environment(folder: Path) -> Path:
    """Make a virtual environment; return its interpreter."""
    venv.create(folder, with_pip=True, clear=True)
    return folder / "bin" / "python"
