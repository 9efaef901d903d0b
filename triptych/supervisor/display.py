"""What an operator sees on stderr: the services' logs, and how far the weights are loaded.

On a terminal the progress is a bar under the log; elsewhere it is a line per quarter.
"""

from __future__ import annotations

from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.text import Text

from triptych.supervisor.log_lines import LogRecord, render
from triptych.supervisor.plan import ServicePlan

_LOADING = "loading weights"


class _Loading(Protocol):
    def update(self, done_bytes: int, total_bytes: int) -> None:
        """Show that so much is loaded."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Display:
    """Shows log lines on `stream`, as they are (`json`) or made readable (`text`)."""

    def __init__(self, stream: TextIO, *, log_format: str) -> None:
        self._stream = stream
        self._raw = log_format == "json"
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._coloured = self._console.is_terminal and not self._console.no_color
        self._loading: _Loading = (
            _Bar(self._console) if self._console.is_terminal else _Quarters(self)
        )

    def show(self, plan: ServicePlan, line: str, record: LogRecord | None) -> None:
        """Show one line of a service's output; `record` is what it says, if it is a log line."""
        if record is None:
            self.say(line)
            return
        if record.event == _LOADING and "total_bytes" in record.fields and not self._raw:
            self._loading.update(record.fields["done_bytes"], record.fields["total_bytes"])
        elif record.level >= plan.shown_from:
            shown = line if self._raw else render(plan.service, record, coloured=self._coloured)
            self.say(shown)

    def say(self, line: str) -> None:
        """Write one line above the progress."""
        if self._console.is_terminal:
            self._console.print(Text.from_ansi(line))
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._loading.close()


class _Bar:
    """A bar that goes away when it is full."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def update(self, done_bytes: int, total_bytes: int) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn(_LOADING), BarColumn(), DownloadColumn(), console=self._console
            )
            self._task = self._progress.add_task(_LOADING, total=total_bytes)
            self._progress.start()
        self._progress.update(self._task, completed=done_bytes, total=total_bytes)
        if done_bytes >= total_bytes:
            self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Quarters:
    """A line at 25, 50, 75 and 100 %."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._told = 0

    def update(self, done_bytes: int, total_bytes: int) -> None:
        quarter = 4 if total_bytes <= 0 else 4 * done_bytes // total_bytes
        if quarter > self._told:
            self._display.say(f"{_LOADING}: {25 * quarter} % of {total_bytes / 1e6:.1f} MB")
        self._told = quarter if quarter < 4 else 0  # a service that starts again loads again

    def close(self) -> None:
        pass
