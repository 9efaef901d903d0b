"""The tests of kernels on a GPU, with processes that are only made up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import gpu_tests

FILES = [Path("test_good.py"), Path("test_bad.py"), Path("test_none.py")]
STATUSES = {"test_good.py": 0, "test_bad.py": 1, "test_none.py": 5}


def ended(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], STATUSES[path.name], f"why\n{path.stem} ended\n")


def test_files_that_failed_are_named_and_their_output_is_shown() -> None:
    told: list[str] = []

    failed = gpu_tests.run_all(FILES, 2, ended, told.append)

    assert failed == [Path("test_bad.py")]
    assert {"test_good.py: test_good ended", "test_bad.py: test_bad ended"} <= set(told)
    assert [line for line in told if line.startswith("why")] == ["why\ntest_bad ended\n"]


def test_a_file_runs_compiled_without_the_plugins_that_only_other_tests_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    path = tmp_path / "test_it.py"
    path.write_text(
        "import os\n"
        "def test_it():\n"
        "    assert os.environ['TRIPTYCH_GPU'] == '1'\n"
        "    assert 'TRITON_INTERPRET' not in os.environ\n"
    )

    done = gpu_tests.run_file(path, ["-p", "no:asyncio", "-p", "no:timeout"])

    assert done.returncode == 0, done.stdout


def test_a_file_that_hangs_is_stopped_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text("import time\ndef test_it():\n    time.sleep(1000)\n")

    done = gpu_tests.run_file(path, limit_s=0.1)

    assert done.returncode not in (0, 5)
    assert done.stdout.endswith("stopped after 0 s")


def test_all_files_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now, limits = iter([100.0, 130.0, 400.0]), []
    monkeypatch.setattr(gpu_tests.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(gpu_tests, "run_file", lambda _, __, limit_s: limits.append(limit_s))
    monkeypatch.setattr(
        gpu_tests, "run_all", lambda files, jobs, run, report: [run(path) for path in "ab"] and []
    )

    assert gpu_tests.main(["--budget", "60"]) == 0
    assert limits == [30.0, 0.0]


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_tests, "_NEEDED", ("sys", "no_such_module"))

    assert gpu_tests.main([]) == 2
    assert "no_such_module not installed" in capsys.readouterr().err
