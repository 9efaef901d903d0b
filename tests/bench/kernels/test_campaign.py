"""What a campaign measures, in which order, and what it makes of failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.fakes.bench import FakeWorker

from bench.kernels import campaign
from bench.kernels.campaign import ABSENT, Settings, run
from bench.kernels.cases.case import OURS, Case
from bench.kernels.measuring.worker_client import Lost

FIGURES = {"median_us": 10.0, "bytes": 4_000_000, "flops": 0}
CASES = [
    Case("copy", "small", None, None, {}, peers=("other",)),
    Case("copy", "large", None, None, {}, peers=("other",)),
]


def answer(request: Mapping[str, Any]) -> dict[str, Any] | Lost:
    if "ceiling" in request:
        return {"per_s": 4e12 if request["ceiling"] == "copy" else 8e14}
    if (request["case"], request["contender"]) == ("copy: small", "other"):
        return Lost("RuntimeError: no kernel")
    return dict(FIGURES)


def test_ceilings_come_first_then_ours_then_others() -> None:
    asked = FakeWorker(answer)

    found = run(asked, CASES, Settings(), lambda _: None, lambda _: None)

    assert [request.get("ceiling") for request in asked.requests[:2]] == ["copy", "matmul"]
    assert [(each["case"], each["contender"]) for each in found.figures] == [
        ("copy: small", OURS),
        ("copy: large", OURS),
        ("copy: small", "other"),
        ("copy: large", "other"),
    ]
    assert (found.ceilings.copy_bytes_per_s, found.ceilings.matmul_flops_per_s) == (4e12, 8e14)


def test_a_failure_is_kept_and_the_next_is_measured() -> None:
    told: list[str] = []

    found = run(FakeWorker(answer), CASES, Settings(), lambda _: None, told.append)

    assert found.figures[2]["failed"] == "RuntimeError: no kernel"
    assert found.figures[3]["median_us"] == 10.0
    assert told[-2:] == [
        "copy: small · other: FAILED, RuntimeError: no kernel",
        "copy: large · other: 10.0 µs, 0.10 of its floor",
    ]
    assert found.failed() == [], "only ours count"


def test_what_failed_of_ours_is_told() -> None:
    def fail(request: Mapping[str, Any]) -> dict[str, Any]:
        return {"failed": "relative error 1"} if "case" in request else {"per_s": 1.0}

    found = run(FakeWorker(fail), CASES[:1], Settings(), lambda _: None, lambda _: None)

    assert found.failed() == ["copy: small: relative error 1"]


def test_everything_is_kept_as_it_comes() -> None:
    kept = []

    run(
        FakeWorker(answer),
        CASES,
        Settings(),
        lambda now: kept.append(len(now.figures)),
        lambda _: None,
    )

    assert kept == [1, 2, 3, 4]


def test_others_are_left_out_on_demand() -> None:
    found = run(FakeWorker(answer), CASES, Settings(peers=False), lambda _: None, lambda _: None)

    assert {each["contender"] for each in found.figures} == {OURS}


def test_after_the_budget_nothing_more_is_begun() -> None:
    clock = iter([0.0, 1.0, 99.0, 101.0, 102.0])
    asked = FakeWorker(answer)

    found = run(
        asked,
        CASES,
        Settings(budget_s=100.0),
        lambda _: None,
        lambda _: None,
        lambda: next(clock),
    )

    assert len(asked.requests) == 4
    assert [each.get("failed") for each in found.figures] == [
        None,
        None,
        "no time was left",
        "no time was left",
    ]


def test_a_peer_that_is_not_installed_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "_PACKAGES", {"other": "no_such_package"})
    asked = FakeWorker(answer)

    found = run(asked, CASES, Settings(), lambda _: None, lambda _: None)

    assert [each.get("failed") for each in found.figures] == [None, None, ABSENT, ABSENT]
    assert len(asked.requests) == 4, "ceilings and ours"


def test_without_ceilings_nothing_is_measured() -> None:
    asked = FakeWorker(lambda _: Lost("RuntimeError: no driver"))

    with pytest.raises(Lost, match="no driver"):
        run(asked, CASES, Settings(), lambda _: None, lambda _: None)
    assert len(asked.requests) == 1
