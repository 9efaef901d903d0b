"""Nobody who writes waits, nothing that fails reaches the writer, and a loss is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from chassis.line_stream import MOST_PENDING_BYTES, LineStream

WAIT_S = 20.0
LINE = "x" * 1023 + "\n"


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            with suppress(OSError):
                os.close(descriptor)


def tell(lines: int) -> str:
    return f"{lines} lost\n"


def read_lines(descriptor: int, until: str) -> list[str]:
    """The lines that come, up to and with the first that has `until` in it."""
    raw = b""
    while until.encode() not in raw or not raw.endswith(b"\n"):
        raw += os.read(descriptor, 1 << 16)
    return raw.decode().splitlines()


def test_lines_come_in_their_order_and_in_utf_8() -> None:
    with pipe() as (reading, writing):
        stream = LineStream(writing)
        stream.write("first\n")
        stream.write("модель \ud800\n")
        assert read_lines(reading, "модель") == ["first", "модель \\ud800"]
        assert stream.dropped == 0


def test_a_pipe_with_room_takes_a_line_without_a_thread() -> None:
    with pipe() as (reading, writing):
        try:
            os.pwritev(writing, [b"first\n"], -1, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("this kernel cannot write to a pipe without waiting")
        before = threading.enumerate()
        LineStream(writing).write("second\n")
        assert threading.enumerate() == before
        assert read_lines(reading, "second") == ["first", "second"]


def test_a_line_that_waits_is_not_overtaken_by_one_that_needs_no_waiting() -> None:
    with pipe() as (reading, writing):
        stream = LineStream(writing)
        stream.write("x" * (1 << 18) + "\n")
        stream.write("last\n")
        assert read_lines(reading, "last") == ["x" * (1 << 18), "last"]
        assert stream.dropped == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_an_unread_pipe_costs_lines_and_no_time_and_the_loss_is_told_where_it_was(
    blocking: bool,
) -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, blocking)
        stream = LineStream(writing, tell)
        written = 2 * MOST_PENDING_BYTES // len(LINE)
        for _ in range(written):
            stream.write(LINE)
        assert stream.dropped > 0

        came = read_lines(reading, "lost")
        assert came[-1] == f"{stream.dropped} lost"
        assert len(came) - 1 + stream.dropped == written
        stream.write("again\n")
        assert read_lines(reading, "again") == ["again"]


def test_a_reader_that_has_gone_costs_lines_only() -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        stream = LineStream(writing)
        for _ in range(3):
            stream.write("unseen\n")
            stream.drain(WAIT_S)
        assert stream.dropped == 3


@pytest.mark.parametrize("path", ["/dev/full", None])
def test_a_full_disk_and_a_closed_descriptor_cost_lines_only(path: str | None) -> None:
    descriptor = os.open(path or os.devnull, os.O_WRONLY)
    if path is None:
        os.close(descriptor)
    try:
        stream = LineStream(descriptor)
        stream.write("unseen\n")
        stream.drain(WAIT_S)
        assert stream.dropped == 1
        assert not stream.isatty()
    finally:
        if path is not None:
            os.close(descriptor)


def test_a_disk_that_has_room_again_is_told_what_it_lost() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pipe() as (reading, writing):
        stream = LineStream(full, tell)
        stream.write("unseen\n")
        stream.drain(WAIT_S)
        os.dup2(writing, full)
        stream.write("unseen too, but it shows that there is room\n")
        assert read_lines(reading, "lost") == ["2 lost"]
        stream.write("seen\n")
        assert read_lines(reading, "seen") == ["seen"]
        os.close(full)


def test_draining_does_not_wait_for_ever() -> None:
    with pipe() as (reading, writing):
        stream = LineStream(writing)
        for _ in range(100):
            stream.write(LINE)
        stream.drain(0.01)
        assert read_lines(reading, "x")
