"""Answers of a worker, measured on the processor by a made-up clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.fakes.bench import FakeBench, cpu
from triton.runtime.errors import OutOfResources

from bench.kernels.cases.case import OURS, Case, Place, Trial
from bench.kernels.measuring import worker
from kernels.triton.configs import choose


def trial(place: Place, wrong: float = 1.0, call=None) -> Trial:
    x = place.normal(8, 8)
    return Trial(
        {OURS: lambda: call or (lambda: wrong * x), "other": lambda: lambda: -x},
        x.double,
        moved_bytes=128,
        flops=64,
    )


CASE = Case("negate", "8 x 8", trial, trial, {})


def ask(monkeypatch: pytest.MonkeyPatch, case: Case, contender: str = OURS, **more: object) -> dict:
    monkeypatch.setattr(worker, "case_named", lambda _: case)
    request = {"case": case.name, "contender": contender, **more}
    return worker.answer_on(cpu(), request)


def test_figures_say_what_was_moved_and_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, CASE)

    assert (found["bytes"], found["flops"], found["error"]) == (128, 64, 0.0)
    assert found["median_us"] > 0


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_wrong_result_has_no_figures(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    found = ask(monkeypatch, replace(CASE, make=lambda place: trial(place, wrong)))

    assert "relative error" in found["failed"]
    assert "median_us" not in found


def test_others_may_differ_where_results_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "failed" in ask(monkeypatch, CASE, "other")
    assert "failed" not in ask(monkeypatch, replace(CASE, drawn=True), "other")
    assert "failed" in ask(monkeypatch, replace(CASE, drawn=True, make=lambda p: trial(p, 2.0)))


def test_a_forced_launch_is_the_one_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note() -> torch.Tensor:
        seen.append(choose("rms_norm", hidden=4096).num_warps)
        return torch.zeros(8, 8)

    forced = {"rms_norm": {"tiles": {"BLOCK": 4096}, "num_warps": 32, "num_stages": 2}}
    ask(monkeypatch, replace(CASE, make=lambda p: trial(p, call=note)), forced=forced)

    assert set(seen) == {32}


@pytest.mark.parametrize(
    "error", [OutOfResources(300_000, 232_448, "shared memory"), torch.OutOfMemoryError("none")]
)
def test_a_launch_that_does_not_fit_is_no_reason_to_die(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse() -> torch.Tensor:
        raise error

    found = ask(monkeypatch, replace(CASE, make=lambda p: trial(p, call=refuse)))

    assert found["failed"].startswith(type(error).__name__)


def test_other_failures_are_not_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> torch.Tensor:
        raise RuntimeError("an illegal address")

    with pytest.raises(RuntimeError):
        ask(monkeypatch, replace(CASE, make=lambda p: trial(p, call=fault)))


def test_ceilings_count_bytes_both_ways_and_products_twice() -> None:
    device = cpu(FakeBench([1000.0]))

    assert worker.copy_ceiling(device, 1.0, size=500) == pytest.approx(2 * 1000 / 1.0)
    assert worker.matmul_ceiling(device, 1.0, side=10) == pytest.approx(2 * 2000 / 1.0)
