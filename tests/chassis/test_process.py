"""A child does not outlive the process it belongs to."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

ENDS_S = 20.0

CHILD = """
import os, sys
from chassis.process import die_with_parent

die_with_parent(os.getppid())
print(os.getpid(), flush=True)
os.read(0, 1)  # its input is never closed before it ends
"""

PARENT = """
import subprocess, sys

with open(sys.argv[2]) as never_read:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=never_read)
    child.wait()
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    # Opened for reading and writing, so that its reader sees no end while this test holds it.
    pipe = tmp_path / "never"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    try:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD, str(pipe)], stdout=subprocess.PIPE, text=True
        )
        with parent:
            assert parent.stdout is not None
            child = os.pidfd_open(int(parent.stdout.readline()))
            assert not ended(child, 0)
            parent.kill()
            assert ended(child, ENDS_S)
            os.close(child)
    finally:
        os.close(held)


def ended(pidfd: int, within_s: float) -> bool:
    return bool(select.select([pidfd], [], [], within_s)[0])


LATE = """
import sys
from chassis.errors import StartError
from chassis.process import die_with_parent

try:
    die_with_parent(int(sys.argv[1]))
except StartError as error:
    sys.exit(str(error))
"""


def test_a_child_whose_parent_has_already_ended_does_not_start() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    # As one sees it whose parent ended before it could ask: its parent is another process by now.
    late = subprocess.run(
        [sys.executable, "-c", LATE, str(gone.pid)], capture_output=True, text=True, check=False
    )
    assert late.returncode == 1
    assert late.stderr == f"parent process {gone.pid} has ended; not starting without it\n"
