"""Show Triptych at work: four services on the bundled model, one prompt, its text as it comes.

Whatever the demo started has ended when it returns, also where it failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
TRIPTYCH = (sys.executable, "-m", "triptych")
PROMPT = "def read_file(path):"
READY = "ready on "
READY_WITHIN_S = 120.0
TEXT_WITHIN_S = 120.0
STOPPED_WITHIN_S = 30.0


class DemoFailed(Exception):
    """The demo did not show what it promises."""


@contextmanager
def ended_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """End `process` if the block takes longer than `seconds`, so that no read waits for ever."""
    alarm = Timer(seconds, process.kill)
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


@contextmanager
def serving(log: IO[bytes]) -> Iterator[str]:
    """Run the four services inside the block; yield the address they answer on.

    Args:
        log: takes what the services log.

    Raises:
        DemoFailed: they did not become ready, or did not stop on request.
    """
    command = [*TRIPTYCH, "serve", "--model", "models/demo", "--device", "cpu"]
    command += ["--listen", "127.0.0.1:0", "--metrics-listen", "off"]
    print("Starting four services on models/demo, then streaming a completion.", file=sys.stderr)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log) as server:
        try:
            yield wait_ready(server)
        finally:
            server.send_signal(signal.SIGINT)
            with ended_after(server, STOPPED_WITHIN_S):
                server.wait()
    if server.returncode != 0:
        raise DemoFailed(f"the services ended with exit code {server.returncode} instead of 0")


def wait_ready(server: subprocess.Popen[bytes]) -> str:
    """Wait until `server` says that it answers requests; return the address it names."""
    assert server.stdout is not None
    with ended_after(server, READY_WITHIN_S):
        for line in server.stdout:
            text = line.decode()
            if text.startswith(READY):
                return text.removeprefix(READY).strip()
    raise DemoFailed("the services ended before they were ready")


def stream_completion(address: str) -> None:
    """Pass a completion of `PROMPT` on to the terminal, each piece as it arrives.

    Raises:
        DemoFailed: the client failed, or no text came.
    """
    command = [*TRIPTYCH, "generate", "--address", address, "--stats"]
    command += ["--max-tokens", "96", "--temperature", "0", PROMPT]
    sys.stdout.write(PROMPT)
    sys.stdout.flush()
    received = 0
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as client,
        ended_after(client, TEXT_WITHIN_S),
    ):
        assert client.stdout is not None
        while piece := os.read(client.stdout.fileno(), 4096):
            received += len(piece.strip())
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        client.wait()
    if client.returncode != 0:
        raise DemoFailed(f"`triptych generate` ended with exit code {client.returncode}")
    if not received:
        raise DemoFailed("the model answered without any text")


def main() -> int:
    """Run the demo; return the exit code."""
    with tempfile.TemporaryFile() as log:
        try:
            with serving(log) as address:
                stream_completion(address)
        except DemoFailed as failure:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            print(f"\ndemo failed: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
