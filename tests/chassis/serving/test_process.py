"""A child does not outlive the process it belongs to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ENDS_S = 20.0

CHILD = """
import os, sys
from chassis.serving.process import die_with_parent

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
from chassis.serving.process import die_with_parent

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


def run(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=ENDS_S, **options
    )


ADOPTING = """
import ctypes, os, subprocess, sys
from chassis.serving.process import reap_orphans

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # a subreaper, as process 1 is one
outer = os.getpid()
reap_orphans()
assert os.getppid() == outer
"""

ORPHANS = (
    ADOPTING
    + """
# Its grandchild outlives it, and is then the child of the outer process.
orphan = subprocess.run(
    ["sh", "-c", "sleep 0.05 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True
).stdout.strip()
with subprocess.Popen(["sh", "-c", "exit 7"]) as own:
    assert own.wait() == 7
while os.path.exists(f"/proc/{orphan}"):
    pass
sys.exit(3)
"""
)


def test_a_process_that_adopts_orphans_reaps_them_and_leaves_its_children_alone() -> None:
    ended = run(ORPHANS)
    assert (ended.returncode, ended.stderr) == (3, "")


SIGNALLED = (
    ADOPTING
    + """
import signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
os.kill(outer, signal.SIGTERM)
signal.pause()
"""
)


def test_a_signal_to_it_is_passed_on() -> None:
    assert run(SIGNALLED).returncode == 5


def test_a_death_by_signal_is_told_as_a_shell_tells_it() -> None:
    assert run(ADOPTING + "os.kill(os.getpid(), 9)").returncode == 128 + 9


def test_another_process_goes_on_as_it_is() -> None:
    code = "import os; from chassis.serving.process import reap_orphans; a = os.getpid(); "
    assert run(f"{code}reap_orphans(); assert a == os.getpid()").returncode == 0


CLOSED = """
import os, socket, sys
for number in map(int, sys.argv[1:]):
    os.close(number)
from chassis.serving.process import open_standard_streams
open_standard_streams()
with socket.socket() as opened:
    assert opened.fileno() > 2, opened.fileno()
for number in map(int, sys.argv[1:]):
    assert os.readlink(f"/proc/self/fd/{number}") == os.devnull
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_no_socket_takes_the_place_of_a_closed_stream(closed: tuple[int, ...]) -> None:
    assert run(CLOSED, *map(str, closed)).returncode == 0


HEEDED = """
import signal
from chassis.serving.process import unless_ignored
print(*(one.name for one in unless_ignored((signal.SIGINT, signal.SIGHUP))))
"""


def test_what_a_process_was_started_to_ignore_stays_ignored() -> None:
    def ignore_hangups() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert run(HEEDED, preexec_fn=ignore_hangups).stdout == "SIGINT\n"
