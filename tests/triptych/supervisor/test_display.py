"""What an operator sees, on a terminal and elsewhere."""

import io
import json
import logging
from pathlib import Path

import pytest

from triptych.supervisor.display import Display
from triptych.supervisor.log_lines import parse
from triptych.supervisor.plan import Deployment, plan


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def models():
    """The models of two replicas."""
    deployment = Deployment(checkpoint=Path("/m"), listen="x:1", log_level="warning", replicas=2)
    plans = plan(deployment, Path("/run"), parent_pid=1, environment={})
    return [one for one in plans if one.service == "model"]


@pytest.fixture
def model():
    deployment = Deployment(checkpoint=Path("/m"), listen="x:1", log_level="warning")
    plans = plan(deployment, Path("/run"), parent_pid=1, environment={})
    return next(one for one in plans if one.service == "model")


def line(event, level="info", **extra):
    return json.dumps({"level": level, "event": event, "time": "2026-01-01T00:00:00Z", **extra})


def show(display, plan, text):
    display.show(plan, text, parse(text))


def test_hides_what_is_below_the_level(model):
    stream = io.StringIO()
    display = Display(stream, log_format="text")

    show(display, model, line("quiet"))
    show(display, model, line("loud", "warning"))

    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()
    assert model.shown_from == logging.WARNING


def test_json_lines_pass_as_they_are(model):
    stream = io.StringIO()
    text = line("loud", "warning", key=[1, 2])

    show(Display(stream, log_format="json"), model, text)

    assert stream.getvalue() == text + "\n"


def test_progress_is_a_line_a_quarter_and_begins_anew_after_a_restart(model):
    stream = io.StringIO()
    display = Display(stream, log_format="text")

    for done in (1, 30, 31, 99):
        show(display, model, line("loading weights", done_bytes=done, total_bytes=100))
    display.ended(model)
    for done in (25, 100):
        show(display, model, line("loading weights", done_bytes=done, total_bytes=100))

    percents = [row.split()[2] for row in stream.getvalue().splitlines()]
    assert percents == ["25", "75", "25", "100"]


def test_progress_of_several_models_is_told_apart(models):
    stream = io.StringIO()
    display = Display(stream, log_format="text")

    for done in (50, 100):
        for one in models:
            show(display, one, line("loading weights", done_bytes=done, total_bytes=100))

    assert [row.partition(" of ")[0] for row in stream.getvalue().splitlines()] == [
        "model/0 loading weights: 50 %",
        "model/1 loading weights: 50 %",
        "model/0 loading weights: 100 %",
        "model/1 loading weights: 100 %",
    ]


def test_json_lines_of_several_replicas_say_which(models):
    stream = io.StringIO()
    display = Display(stream, log_format="json")

    show(display, models[1], line("loud", "warning", key=[1, 2]))

    assert json.loads(stream.getvalue()) == json.loads(line("loud", "warning", key=[1, 2])) | {
        "replica": 1
    }


def test_progress_is_a_bar_on_a_terminal_and_logs_stand_above_it(model, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    display = Display(screen, log_format="text")

    show(display, model, line("loading weights", done_bytes=5, total_bytes=10))
    show(display, model, line("hot", "warning"))
    show(display, model, line("loading weights", done_bytes=10, total_bytes=10))
    display.close()

    shown = screen.getvalue()
    assert "10/10 bytes" in shown
    assert "hot" in shown
    assert shown.endswith("\x1b[?25h"), "the cursor is shown again"


def test_the_bar_of_a_process_that_ended_goes_away(model, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    display = Display(screen, log_format="text")

    show(display, model, line("loading weights", done_bytes=5, total_bytes=10))
    display.ended(model)

    shown = screen.getvalue()
    assert shown.endswith("\x1b[?25h"), "the cursor is shown again"
    assert "5/10 bytes" not in shown.rpartition("\x1b[?25l")[2].splitlines()[-1]


FORGED = "x\n12:00:00.000 error router [r-2] paid\x1b[31m\x07\x9b\u2028"


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_that_a_service_writes_can_begin_a_line_or_steer_a_terminal(
    model, monkeypatch, log_format, terminal
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Screen() if terminal else io.StringIO()
    display = Display(stream, log_format=log_format)
    raw = FORGED.replace("\n", "")
    told = json.dumps({"level": "error", "event": raw, "a": FORGED, "exception": FORGED + raw})

    show(display, model, raw)
    show(display, model, told.replace("\\u009b", "\x9b"))
    show(display, model, "[" * (1 << 16))

    lines = stream.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert any('"event"' in line for line in lines) == (log_format == "json")
    assert max(map(len, lines)) < 4096


def test_the_supervisors_own_lines_are_lines_of_the_log(model):
    for log_format, begins in (("text", "supervisor"), ("json", '"service": "supervisor"')):
        stream = io.StringIO()
        Display(stream, log_format=log_format).log(logging.INFO, "stopping")
        assert begins in stream.getvalue()
        assert "stopping" in stream.getvalue()
