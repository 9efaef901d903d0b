"""Commands run for the test: what they say is kept, and told only where they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_TAIL = 40


class CommandFailed(Exception):
    """A command ended with another exit code than 0."""


def search_path() -> str:
    """PATH, with the folders of the system's own commands, which not every shell has there."""
    return os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM))


def find(name: str) -> list[str]:
    """All commands of that name, as a shell would take them."""
    places = (shutil.which(name, path=folder) for folder in search_path().split(os.pathsep))
    return list(dict.fromkeys(filter(None, places)))


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    stdin: bytes | None = None,
    timeout_s: float = 1800.0,
) -> str:
    """What `command` wrote to stdout.

    Raises:
        CommandFailed: it failed, is not there, or took longer than `timeout_s`.
    """
    name = " ".join(map(str, command[:4]))
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{name}: {error}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-_TAIL:]
        raise CommandFailed("\n".join((f"{name}: exit code {done.returncode}", *said)))
    return done.stdout.decode(errors="replace").strip()


def succeeds(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> bool:
    """Whether `command` ends well, within a minute."""
    try:
        run(command, environment, timeout_s=60.0)
    except CommandFailed:
        return False
    return True
