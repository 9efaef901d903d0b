"""A text stream that never keeps its writer waiting and never fails.

A line goes into a pipe at once where the kernel can take it without waiting. Everything else is
written by a thread of its own. What a pipe that nobody reads, a full disk or a reader that has gone
leaves no room for is dropped and counted; a line says how much, once there is room.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable

MOST_PENDING_BYTES = 1 << 20
LAST_WORDS_S = 0.5


class LineStream(io.TextIOBase):
    """Writes lines to a descriptor in their order, UTF-8.

    Attributes:
        dropped: lines that were not written.
        report_dropped: makes the line that reports so many dropped ones.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, report_dropped: Callable[[int], str] | None = None) -> None:
        self.dropped = 0
        self.report_dropped = report_dropped or "{} lines were dropped: they were not read\n".format
        self._descriptor = descriptor
        self._at_once = _is_pipe(descriptor)
        self._thread: threading.Thread | None = None
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._unreported = 0
        self._may_report = False
        self._writing = False
        self._torn = False
        self._changed = threading.Condition()
        atexit.register(self.drain)

    def write(self, text: str) -> int:
        """Write `text`, one or more lines or a part of one, or drop it."""
        raw = text.encode(errors=self.errors)
        with self._changed:
            if self._idle and self._write_at_once(raw):
                return len(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
                self._thread.start()
            # Nothing is accepted before the loss is reported: the report stands in its place.
            if self._unreported or self._pending_bytes + len(raw) > MOST_PENDING_BYTES:
                self._drop(1)
                self._may_report = True
            else:
                self._pending.append(raw)
                self._pending_bytes += len(raw)
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: text is written without a flush."""

    def drain(self, within_s: float = LAST_WORDS_S) -> None:
        """Wait until all is written, for `within_s` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle, within_s)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    @property
    def _idle(self) -> bool:
        """True if the thread has nothing to write."""
        return not (self._pending or self._may_report or self._writing)

    def _write_at_once(self, raw: bytes) -> bool:
        """Write `raw` if that needs no waiting; True if it is written."""
        # A pipe takes so many bytes whole or not at all.
        if not self._at_once or self._unreported or len(raw) > select.PIPE_BUF:
            return False
        try:
            os.pwritev(self._descriptor, [raw], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # an older kernel, or a failure that the thread meets as well
            self._at_once = False
            return False
        return True

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unreported += lines

    def _run(self) -> None:
        while True:
            raw, reported = self._next()
            if self._write_out(raw):
                continue
            with self._changed:
                if reported:
                    self._unreported += reported
                else:
                    self._drop(1)

    def _next(self) -> tuple[bytes, int]:
        """Wait for bytes to write, and the number of dropped lines that they report."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending or self._may_report)
            self._writing = True
            if self._pending:
                raw = self._pending.popleft()
                self._pending_bytes -= len(raw)
                return raw, 0
            reported, self._unreported, self._may_report = self._unreported, 0, False
        return self.report_dropped(reported).encode(errors=self.errors), reported

    def _write_out(self, raw: bytes) -> bool:
        """Write all of `raw`, however long it takes; False if that is impossible."""
        left = memoryview(b"\n" + raw if self._torn else raw)
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                    self._torn = bool(left)
                except BlockingIOError:  # another process has made the descriptor non-blocking
                    writable = select.poll()
                    writable.register(self._descriptor, select.POLLOUT)
                    writable.poll()
        except OSError:
            return False
        return True


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
