"""The parent's side of one worker process: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from chassis.errors import StartError
from chassis.imports import import_environment
from tokenizer_svc import wire
from tokenizer_svc.wire import Kind

_READ_AHEAD_BYTES = 1 << 20


class WorkerDied(Exception):
    """The process ended before it answered."""


class WorkerProcess:
    """A running worker, ended by the caller of `end`.

    Attributes:
        killed: `kill` was called.
    """

    def __init__(self, folder: Path) -> None:
        """Start a worker on the checkpoint in `folder`; it has not loaded it yet."""
        self._process, self._link = _spawn(folder)
        self._hang_up: Callable[[], None] = self._link.close
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[None] = loop.create_future()
        self.killed = False
        self._statm = os.open(f"/proc/{self._process.pid}/statm", os.O_RDONLY)
        self._descriptor = os.pidfd_open(self._process.pid)
        loop.add_reader(self._descriptor, self._reap)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    async def loaded(self) -> bytes:
        """Wait until the worker has loaded its checkpoint; before that it accepts no message.

        Returns:
            What it says of it: a `GetVocabularyResponse`.

        Raises:
            StartError: it cannot.
        """
        self._reader, self._writer = await asyncio.open_connection(
            sock=self._link, limit=_READ_AHEAD_BYTES
        )
        self._hang_up = self._writer.close
        try:
            kind, payload = await wire.read_async(self._reader)
        except (EOFError, ConnectionError):
            raise StartError(
                "a tokenizer worker ended while it loaded; its last lines above say why"
            ) from None
        if kind == Kind.FAILED:
            raise StartError(payload.decode())
        return payload

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send the worker a message; it is lost if the worker has ended."""
        self._writer.write(wire.pack(kind, payload))

    async def receive(self) -> wire.Message:
        """Wait for the worker's next message.

        Raises:
            WorkerDied: it ended before.
        """
        try:
            return await wire.read_async(self._reader)
        except (EOFError, ConnectionError) as error:
            raise WorkerDied from error

    @property
    def resident_bytes(self) -> int:
        """Memory that the process holds; 0 where it has ended."""
        if self.ended:
            return 0
        return int(os.pread(self._statm, 256, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End the process, whatever it does."""
        if not self.ended:
            self.killed = True
            self._process.kill()

    @property
    def ended(self) -> bool:
        """True once the process is known to have ended."""
        return self._exit.done()

    def on_exit(self, call: Callable[[], None]) -> None:
        """Call `call` once the process has ended."""
        self._exit.add_done_callback(lambda _: call())

    def end(self) -> None:
        """Kill the process and wait for its end; it writes nowhere after this.

        The wait blocks, but a killed process is gone in milliseconds, and no cancellation can come
        between.
        """
        self._hang_up()
        if not self._exit.done():
            self._process.kill()
            self._reap()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        os.close(self._statm)
        self._process.wait()
        self._exit.set_result(None)


def _spawn(folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process and return it with our end of its socket.

    Not through the event loop: Popen's vfork does not run gRPC's fork handlers.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "tokenizer_svc.worker"),
                *(str(theirs.fileno()), str(os.getpid()), str(folder)),
            ],
            pass_fds=[theirs.fileno()],
            # One thread each: the pool is what runs prompts side by side.
            env={
                **import_environment(os.environ),
                **{"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
            },
        )
    return process, ours
