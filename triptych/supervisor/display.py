"""Output on an operator's stderr: the services' logs, and progress bars of loading weights.

On a terminal the progress is a bar under the log; elsewhere it is a line per quarter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.text import Text

from chassis.logs import printable
from triptych.supervisor.log_lines import SUPERVISOR, LogRecord, own_line, render
from triptych.supervisor.plan import ServicePlan

_LOADING = "loading weights"


class _Loading(Protocol):
    def update(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Show the progress of `what`."""

    def drop(self, what: str) -> None:
        """Forget the progress of `what`."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Display:
    """Shows log lines on `stream`, as they are (`json`) or made readable (`text`)."""

    def __init__(self, stream: TextIO, *, log_format: str) -> None:
        self._stream = stream
        self._raw = log_format == "json"
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._terminal = self._console.is_terminal  # asked once: it looks at the environment
        self._coloured = self._terminal and not self._console.no_color
        self._loading: _Loading = _Bars(self._console) if self._terminal else _Quarters(self)
        self._name_width = 0

    def align(self, plans: Iterable[ServicePlan]) -> None:
        """Leave room for the names of `plans` in front of their log lines."""
        self._name_width = max(len(plan.name) for plan in plans)

    def show(self, plan: ServicePlan, line: str, record: LogRecord | None) -> None:
        """Show one line of a service's output; `record` is what it says, if it is a log line."""
        if record is None:
            self.write(printable(line))
        elif record.event == _LOADING and "total_bytes" in record.fields and not self._raw:
            done, total = record.fields["done_bytes"], record.fields["total_bytes"]
            self._loading.update(_what_loads(plan), done, total)
        elif record.level >= plan.shown_from:
            self.write(self._formatted(plan, line, record))

    def log(self, level: int, event: str) -> None:
        """Show a line of the supervisor's own."""
        name = SUPERVISOR.ljust(self._name_width)
        log_format = "json" if self._raw else "text"
        self.write(
            own_line(level, event, {}, log_format=log_format, name=name, coloured=self._coloured)
        )

    def ended(self, plan: ServicePlan) -> None:
        """Drop the progress of a process."""
        self._loading.drop(_what_loads(plan))

    def write(self, line: str) -> None:
        """Write one line above the progress."""
        if self._terminal:
            self._console.print(Text.from_ansi(line))
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._loading.close()

    def _formatted(self, plan: ServicePlan, line: str, record: LogRecord) -> str:
        if not self._raw:
            name = plan.name.ljust(self._name_width)
            return render(name, record, coloured=self._coloured)
        if plan.replica is None and line.isprintable():
            return line
        replica = {} if plan.replica is None else {"replica": plan.replica}
        # Of all that JSON leaves as it is, this one alone is not printable.
        return json.dumps({**record.fields, **replica}).replace("\x7f", "\\u007f")


def _what_loads(plan: ServicePlan) -> str:
    return _LOADING if plan.replica is None else f"{plan.name} {_LOADING}"


class _Bars:
    """A bar each; full ones stay until all are."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            self._progress = Progress(*columns, console=self._console)
            self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total_bytes)
        self._progress.update(self._tasks[what], completed=done_bytes, total=total_bytes)
        self._close_when_full()

    def drop(self, what: str) -> None:
        task = self._tasks.pop(what, None)
        if task is not None and self._progress is not None:
            self._progress.remove_task(task)
            self._close_when_full()

    def close(self) -> None:
        self._tasks.clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _close_when_full(self) -> None:
        if self._progress is not None and self._progress.finished:
            self.close()


class _Quarters:
    """A line at 25, 50, 75 and 100 %."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._shown: dict[str, int] = {}

    def update(self, what: str, done_bytes: int, total_bytes: int) -> None:
        quarter = 4 if total_bytes <= 0 else 4 * done_bytes // total_bytes
        if quarter > self._shown.get(what, 0):
            self._display.write(f"{what}: {25 * quarter} % of {total_bytes / 1e6:.1f} MB")
            self._shown[what] = quarter

    def drop(self, what: str) -> None:
        self._shown.pop(what, None)

    def close(self) -> None:
        pass
