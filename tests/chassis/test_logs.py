"""Every line names its request, and a record cannot be mistaken for two."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from chassis import logs
from chassis.config import ConfigError

log = logging.getLogger("tests.logs")


class Told:
    """The lines logged since last asked."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self) -> list[str]:
        return self._capsys.readouterr().err.splitlines()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text()]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Told]:
    level = logging.getLogger().level
    yield Told(capsys)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.setLevel(level)


def configure(log_format: str, level: str = "info") -> None:
    # Inside the test, because pytest gives each of its phases another stderr.
    logs.configure("router", log_format=log_format, level=level)


def test_json_has_all_that_identifies_a_line(told: Told) -> None:
    configure("json")
    log.warning("slots %s", "low")
    (line,) = told.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "service": "router",
        "request_id": "-",
        "event": "slots low",
        "logger": "tests.logs",
    }


def test_text_has_all_that_identifies_a_line(told: Told) -> None:
    configure("text")
    with logs.about("r-1"):
        log.warning("slots %s", "low", extra={"free": 3})
    (line,) = told.text()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} warning +router +\[r-1\] slots low free=3", line)


def test_a_line_is_about_the_request_bound_around_it(told: Told) -> None:
    configure("json")
    with logs.about("r-1"):
        log.info("a")
        with logs.about("r-2"):
            log.info("b")
        log.info("c")
    log.info("d")
    assert [(line["event"], line["request_id"]) for line in told.json()] == [
        ("a", "r-1"),
        ("b", "r-2"),
        ("c", "r-1"),
        ("d", "-"),
    ]


async def test_tasks_do_not_mix_their_requests(told: Told) -> None:
    configure("json")
    turn = asyncio.Barrier(2)

    async def work(request_id: str) -> None:
        with logs.about(request_id):
            for _ in range(3):
                await turn.wait()
                log.info(request_id)

    await asyncio.gather(work("r-1"), work("r-2"))
    lines = told.json()
    assert len(lines) == 6
    assert all(line["event"] == line["request_id"] for line in lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_line_may_be_about_a_request_of_another_task(told: Told, log_format: str) -> None:
    configure(log_format)
    with logs.about("r-1"):
        log.info("late", extra={"request_id": "r-2"})
    (line,) = told.text()
    assert "r-2" in line
    assert "r-1" not in line


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_logged_further_out_is_about_the_request_it_was_raised_for(
    told: Told, log_format: str
) -> None:
    configure(log_format)
    shared = KeyError("slot")
    for request_id in ("r-1", "r-2"):
        try:
            with logs.about(request_id):
                raise shared
        except KeyError:
            log.exception("failed")
        first, *_ = told.text()
        assert request_id in first


def test_extras_are_fields_of_their_own_in_json(told: Told) -> None:
    configure("json")
    log.info("step", extra={"tokens": 8, "seconds": 0.5, "path": {"a": [1]}})
    (line,) = told.json()
    assert (line["tokens"], line["seconds"], line["path"]) == (8, 0.5, {"a": [1]})


def test_an_extra_cannot_pass_for_what_identifies_the_line(told: Told) -> None:
    configure("json")
    log.info("link lost", extra={"service": "model", "event": "other"})
    (line,) = told.json()
    assert (line["service"], line["extra_service"]) == ("router", "model")
    assert (line["event"], line["extra_event"]) == ("link lost", "other")


def test_what_json_cannot_say_is_told_as_text(told: Told) -> None:
    configure("json")
    log.info("x", extra={"reason": ValueError("no")})
    (line,) = told.json()
    assert line["reason"] == "no"


def test_json_keeps_a_traceback_on_its_line(told: Told) -> None:
    configure("json")
    try:
        raise KeyError("slot")
    except KeyError:
        log.exception("failed")
    (line,) = told.json()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("KeyError: 'slot'")


def test_text_puts_a_traceback_below_its_line(told: Told) -> None:
    configure("text")
    try:
        raise KeyError("slot")
    except KeyError:
        log.exception("failed", extra={"step": 3})
    first, second, *_, last = told.text()
    assert first.endswith("failed step=3")
    assert second.startswith("Traceback")
    assert last == "KeyError: 'slot'"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_a_client_sends_cannot_begin_a_line(told: Told, log_format: str) -> None:
    configure(log_format)
    forged = "x\n12:00:00.000 info router [r-2] paid\r\x1b[2J\u2028"
    with logs.about(forged):
        log.info("refused %s", forged, extra={"reason": forged})
    (line,) = told.text()
    assert "\x1b" not in line


def test_text_shows_letters_of_any_script_as_they_are(told: Told) -> None:
    configure("text")
    log.info("модель 模型 é")
    (line,) = told.text()
    assert line.endswith("модель 模型 é")


def test_what_is_below_the_level_is_not_told(told: Told) -> None:
    configure("json", "WARNING")
    log.info("a")
    log.warning("b")
    assert [line["event"] for line in told.json()] == ["b"]


def test_configuring_again_replaces_what_was(told: Told) -> None:
    configure("text")
    logs.configure("model", log_format="json", level="info")
    log.info("once")
    assert [line["service"] for line in told.json()] == ["model"]


@pytest.mark.parametrize(("log_format", "level"), [("xml", "info"), ("text", "loud")])
def test_an_unknown_format_or_level_is_refused(log_format: str, level: str) -> None:
    with pytest.raises(ConfigError, match=r"xml|loud"):
        logs.configure("router", log_format=log_format, level=level)


FORGED = "x\n12:00:00.000 error router [r-2] paid\x1b[31m\x9b\u202e"
BOUND = logs.MOST_VALUE_BYTES


def failed_of(text: str) -> None:
    """Log an exception of each kind whose message is `text`: caused, in a group, with a note."""
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            error.add_note(text)
            raise ExceptionGroup(text, [KeyError(text), error]) from error
    except ExceptionGroup:
        log.exception("failed of %s", text, extra={"reason": text})


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_cannot_hold_a_line_of_a_client(told: Told, log_format: str) -> None:
    configure(log_format)
    failed_of(FORGED)
    said = told.text()
    shown = said if log_format == "text" else json.loads(said[0])["exception"].split("\n")
    assert not [line for line in shown if line.startswith("12:00:00.000")]
    assert all(line.isprintable() for line in [*said, *shown])
    assert len(said) == 1 or log_format == "text"


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("letter", ["x", "é", "模", "\0", "😀"])
def test_what_a_client_sends_is_cut(told: Told, log_format: str, letter: str) -> None:
    configure(log_format)
    huge = letter * (8 << 20)
    with logs.about(huge):
        log.info("refused %s", huge, extra={"reason": huge, "all": [huge, {"a": huge}]})
    (line,) = told.text()
    assert len(line.encode()) < 6 * BOUND
    if log_format == "json":
        assert all(len(str(value).encode()) <= BOUND for value in json.loads(line).values())


def test_a_traceback_is_cut_in_its_middle(told: Told) -> None:
    configure("json")
    failed_of("x" * (8 << 20))
    (line,) = told.json()
    assert len(line["exception"]) <= logs.MOST_TRACEBACK_CHARACTERS + 10
    assert line["exception"].startswith("Traceback")


def test_cutting_twice_is_cutting_once() -> None:
    for text in (FORGED, "😀" * BOUND, "\0" * BOUND, "x" * BOUND):
        once = logs.printable(text)
        assert logs.printable(once) == once


def test_text_leaves_out_zeros_and_says_yes_and_no(told: Told) -> None:
    configure("text")
    log.info("done", extra={"tokens": 0, "wait_s": 0.0, "kept": False, "new": True, "why": None})
    (line,) = told.text()
    assert line.endswith(" router      done kept=no new=yes")


def test_json_keeps_zeros_and_numbers_that_json_has(told: Told) -> None:
    configure("json")
    log.info("done", extra={"tokens": 0, "rate": float("nan"), "huge": 1 << 20000})
    (line,) = told.json()
    assert (line["tokens"], line["rate"]) == (0, "nan")
    assert line["huge"].startswith("0x1000")
