"""`python -m bench.kernels` where there is no GPU, and where one is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.fakes.bench import FakeWorker

from bench.kernels import __main__ as command
from bench.kernels import results
from bench.kernels.cases.all_cases import CASES
from bench.kernels.measuring.worker_client import Lost
from kernels.triton.configs import kernels_hash


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A GPU that measures everything alike; where its results go."""

    def answer(request):
        if "ceiling" in request:
            return {"per_s": 1e12}
        if "rope" in request["case"]:
            return Lost("RuntimeError: none")
        return {"median_us": 1.0, "bytes": 1, "flops": 1}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(command, "worker_client", lambda: FakeWorker(answer))
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    return tmp_path


def test_the_hash_is_that_of_todays_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--hash"]) == 0
    assert capsys.readouterr().out == kernels_hash() + "\n"


def test_without_a_gpu_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    for arguments in ([], ["--check"], ["--quick"]):
        assert command.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "finds no GPU" in line
        assert "make gpu" in line


def test_cases_are_listed_by_parts_of_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--only", "rms_norm", "store_kv int8"]) == 0

    listed = capsys.readouterr().out.splitlines()
    assert listed == [
        case.name for case in CASES if case.operation in ("store_kv int8", "rms_norm, residual")
    ]


def test_a_whole_run_is_written_for_its_gpu_and_fails_with_a_kernel(
    gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 1

    written = json.loads((gpu / "results" / "gpu-x.json").read_text())
    assert {each["case"] for each in written["figures"]} == {case.name for case in CASES}
    assert "failed: rope" in capsys.readouterr().out


@pytest.mark.parametrize("narrowed", [["--only", "store_kv"], ["--only", "gelu_mul", "--quick"]])
def test_a_narrowed_run_does_not_pass_for_a_whole_one(gpu: Path, narrowed: list[str]) -> None:
    assert command.main(narrowed) == 0

    assert not (gpu / "results").exists()
    assert (gpu / "build" / "kernels" / "gpu-x.json").exists()


def test_results_go_where_they_are_asked_to(gpu: Path) -> None:
    assert command.main(["--only", "store_kv", "--out", str(gpu / "here.json")]) == 0

    assert (gpu / "here.json").exists()


@pytest.mark.usefixtures("gpu")
def test_no_such_case_is_an_error_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "nonsense"]) == 2
    assert "no case has any of nonsense" in capsys.readouterr().err


@pytest.mark.usefixtures("gpu")
def test_interpreted_kernels_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    assert command.main([]) == 2
    assert "unset it" in capsys.readouterr().err
