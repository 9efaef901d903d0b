"""How launches are searched for, on a GPU whose times are a formula."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fakes.bench import FakeWorker

from bench.kernels import tune
from bench.kernels.candidates import candidates
from bench.kernels.cases.all_cases import CASES
from bench.kernels.measuring.worker_client import Lost
from bench.kernels.tune import Target, search, targets
from kernels.triton import configs
from kernels.triton.defaults import DEFAULTS
from kernels.triton.launch import Config

ALL = targets(CASES)
STORE = next(each for each in ALL if each.kernel == "store_kv")
SPLITS = next(each for each in ALL if each.kernel == "decode_splits")
LATER = math.inf


def by_warps(times: Mapping[int, float]) -> FakeWorker:
    """Takes as long as the forced number of warps says, and 10 us without one."""

    def answer(request: Mapping[str, Any]) -> dict[str, Any] | Lost:
        if not request["forced"]:
            return {"median_us": 10.0}
        ((_, config),) = request["forced"].items()
        taken = times[config["num_warps"]]
        if math.isnan(taken):
            return {"failed": "relative error 1"}
        return Lost("a fault") if math.isinf(taken) else {"median_us": taken}

    return FakeWorker(answer)


def found(times: Mapping[int, float], target: Target = STORE) -> tune.Best | None:
    return search(by_warps(times), target, LATER, lambda _: None)


@pytest.mark.parametrize("target", ALL, ids=lambda each: f"{each.kernel} {dict(each.shape)}")
def test_what_is_tried_sets_what_the_defaults_set(target: Target) -> None:
    tried = candidates(target.kernel, target.shape)

    (names,) = {tuple(default.config.tiles) for default in DEFAULTS[target.kernel]}
    assert {tuple(config.tiles) for config in tried} == {names}
    assert 2 < len(tried) <= 30
    assert len({json.dumps(config.options()) for config in tried}) == len(tried)


def test_every_kernel_that_has_defaults_is_tuned() -> None:
    assert {target.kernel for target in ALL} == set(DEFAULTS)


def test_an_unknown_kernel_has_nothing_to_try() -> None:
    with pytest.raises(LookupError, match="nonsense"):
        candidates("nonsense", {})


def test_the_fastest_is_found() -> None:
    best = found({2: 9.0, 4: 8.0, 8: 11.0})

    assert best is not None
    assert best.config.num_warps == 4
    assert best.ratio == pytest.approx(0.8)


def test_what_fails_or_is_wrong_is_not_chosen() -> None:
    best = found({2: math.inf, 4: math.nan, 8: 9.0})

    assert best is not None
    assert best.config.num_warps == 8


def test_what_is_hardly_faster_is_not_worth_a_file() -> None:
    assert found({2: 9.9, 4: 10.0, 8: 10.1}) is None


def test_a_launch_is_judged_by_all_cases_unless_it_is_hopeless() -> None:
    asked = by_warps({4: 8.0})
    search(asked, SPLITS, LATER, lambda _: None)
    hopeless = by_warps({4: 16.0})
    search(hopeless, SPLITS, LATER, lambda _: None)

    cases, tried = len(SPLITS.cases), len(candidates("decode_splits", {}))
    assert len(asked.requests) == cases * (1 + tried)
    assert len(hopeless.requests) == cases + tried


def test_without_a_time_for_what_is_chosen_now_nothing_is_tried() -> None:
    asked = FakeWorker(lambda _: Lost("a fault"))

    assert search(asked, STORE, LATER, lambda _: None) is None
    assert len(asked.requests) == len(STORE.cases)


def test_after_its_end_nothing_more_is_tried() -> None:
    asked = by_warps({2: 1.0, 4: 1.0, 8: 1.0})

    assert search(asked, STORE, time.monotonic() - 1, lambda _: None) is None
    assert len(asked.requests) == len(STORE.cases)


def test_what_is_found_is_chosen_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    monkeypatch.setattr(configs, "gpu_name", lambda: "gpu-x")
    monkeypatch.setattr(configs, "triton_version", lambda: "3.6")
    configs._nearest.cache_clear()

    tune.tune(by_warps({2: 9.0, 4: 8.0, 8: 11.0}), [STORE], 60.0, lambda _: None)

    assert [path.name for path in tmp_path.iterdir()] == ["store_kv.gpu-x.triton-3.6.json"]
    assert configs.choose("store_kv", **STORE.shape).num_warps == 4
    configs._nearest.cache_clear()
    configs._read.cache_clear()


def test_a_shape_keeps_one_launch_and_leaves_others_theirs(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    for block, shape in ((1, {"dim": 64}), (2, {"dim": 128}), (3, {"dim": 64})):
        tune.write(path, shape, Config({"BLOCK": block}))

    written = {
        entry["shape"]["dim"]: entry["tiles"]["BLOCK"] for entry in json.loads(path.read_text())
    }
    assert written == {64: 3, 128: 2}
    assert set(json.loads(path.read_text())[0]) == {"shape", "tiles", "num_warps", "num_stages"}


def test_without_a_gpu_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "check_ready", refuse)

    assert tune.main([]) == 2
    assert capsys.readouterr().err == "bench.kernels.tune: no GPU\n"


def refuse() -> None:
    raise tune.Unready("no GPU")
