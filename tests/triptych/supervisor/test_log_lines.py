"""Log lines as the services write them, read and shown."""

import logging
import time as clock

import pytest

from chassis.logs import JsonFormatter, about
from triptych.supervisor.log_lines import LogRecord, parse, render, report_dropped, write


def written(level=logging.INFO, message="listening", exc_info=None, **extra):
    """A line as a service writes it."""
    record = logging.getLogger("router.x").makeRecord(
        "router.x", level, "f", 1, message, (), exc_info, extra=extra
    )
    return JsonFormatter("router").format(record)


@pytest.fixture
def utc(monkeypatch):
    """Local time is UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        clock.tzset()
        yield
    clock.tzset()


def test_reads_what_the_chassis_writes():
    record = parse(written(address="127.0.0.1:1"))

    assert record is not None
    assert (record.level, record.event) == (logging.INFO, "listening")
    assert record.fields["address"] == "127.0.0.1:1"


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "[]", "7", '{"a": 1}'])
def test_leaves_other_lines_alone(line):
    assert parse(line) is None


def test_shows_what_belongs_to_the_event():
    record = parse(written(address="127.0.0.1:1"))

    shown = render("router", record, coloured=False)

    assert shown.endswith("info    router      listening address=127.0.0.1:1")


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-11-30T19:30:07.089Z", "19:30:07.089"),
        ("2026-11-30T19:30:07.089999+00:00", "19:30:07.089"),
        ("2026-11-30T19:30:07.08Z", "19:30:07.080"),
        ("2026-11-30T20:30:07+01:00", "19:30:07.000"),
        ("2026-11-30T19:30:07.x89Z", "--:--:--.---"),
        ("2026-11-30T19:30:07.\u0660\u0660\u0660Z", "--:--:--.---"),
        ("today.089Z", "--:--:--.---"),
        (None, "--:--:--.---"),
    ],
)
def test_the_local_time_of_day_begins_a_line(time, shown, utc):
    record = LogRecord(logging.INFO, "listening", {"time": time})

    assert render("router", record, coloured=False).startswith(f"{shown} info ")


def test_the_supervisors_own_lines_read_like_a_services():
    line = write("model", logging.WARNING, "ended", {"restarts": 2, "cause": "100 % lost"})

    record = parse(line)

    assert record.fields.keys() >= parse(written()).fields.keys() - {"address"}
    shown = render("model", record, coloured=False)
    assert shown.endswith("warning model       ended restarts=2 cause=100 % lost")


def test_shows_the_request_and_the_traceback():
    try:
        raise KeyError("lost")
    except KeyError as error:
        with about("req-1"):
            line = written(logging.ERROR, "failed", (KeyError, error, error.__traceback__))

    shown = render("router", parse(line), coloured=False)

    assert "[req-1] failed\nTraceback" in shown
    assert shown.endswith("KeyError: 'lost'")


def test_colours_only_where_asked_and_only_what_stands_out():
    warning = parse(written(logging.WARNING))

    assert render("router", warning, coloured=True).startswith("\x1b[33m")
    assert "\x1b" not in render("router", warning, coloured=False)
    assert "\x1b" not in render("router", parse(written()), coloured=True)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_loss_is_told_in_the_form_of_the_log(log_format):
    line = report_dropped(7, log_format=log_format)

    assert line.endswith("\n")
    assert "log lines were dropped" in line
    assert (parse(line) is not None) == (log_format == "json")
    assert "7" in line


def test_leaves_out_zeros_and_says_yes_and_no():
    record = parse(written(tokens=0, kept=False, new=True))

    assert render("router", record, coloured=False).endswith(" listening kept=no new=yes")
