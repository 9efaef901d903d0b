"""Has a worker process measure, and lives on when it does not.

Invariant: a worker that died or hung answers nothing more; the next question goes to a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = (sys.executable, "-m", "bench.kernels.worker")
_START_S = 120.0  # importing torch from a cold disk


class Lost(Exception):
    """A worker gave no answer; the message says why."""


class Errand:
    """A worker process, started when it is first needed."""

    def __init__(self, command: Sequence[str] = COMMAND, patience_s: float = 180.0) -> None:
        self._command = command
        self._patience_s = patience_s
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self.device: Mapping[str, str] = {}
        """What the worker said of its device, once one has started."""

    def ask(self, request: Mapping[str, Any], most_s: float | None = None) -> dict[str, Any]:
        """Have one thing measured.

        Args:
            request: as `bench.kernels.worker.answer` takes it.
            most_s: wait no longer than this; None for as long as patience lasts.

        Raises:
            Lost: the worker died, or took too long and was stopped.
        """
        process = self._process or self._start()
        assert process.stdin is not None  # it is a pipe
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise Lost(self._end(process)) from None
        wait_s = self._patience_s if most_s is None else min(most_s, self._patience_s)
        return self._read(process, max(wait_s, 1.0))

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._process is not None:
            self._end(self._process)

    def _start(self) -> subprocess.Popen[str]:
        # Open for as long as the worker lives.
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # With the compilers that it may start, which would disturb what is timed next.
            start_new_session=True,
        )
        self.device = self._read(process, _START_S)
        return process

    def _read(self, process: subprocess.Popen[str], wait_s: float) -> dict[str, Any]:
        assert process.stdout is not None  # it is a pipe
        # An answer is written at once, so what can be read is a whole line.
        if not select.select([process.stdout], [], [], wait_s)[0]:
            self._end(process)
            raise Lost(f"no answer within {wait_s:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise Lost(self._end(process))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self, process: subprocess.Popen[str]) -> str:
        """Stop the worker; the last it wrote on its errors, which name what it died of."""
        if process.returncode is None:
            _kill_group(process)
            process.communicate()
        self._process, errors = None, self._errors
        assert errors is not None  # it was started
        errors.seek(0)
        written = [line.strip() for line in errors if line.strip()]
        errors.close()
        return _cause(written) if written else f"died with status {process.returncode}"


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _cause(written: Sequence[str]) -> str:
    """The last line that looks like an exception's, or the last of all."""
    named = [
        line for line in written if ":" in line and line.split(":")[0].split(".")[-1].isalpha()
    ]
    errors = [line for line in named if line.split(":")[0].endswith(("Error", "Exception"))]
    return (errors or written)[-1][:300]
