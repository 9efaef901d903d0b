from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import compile_kernels


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens where pip is told to look."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def run_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *statuses: int, versions: Sequence[str] = ()
) -> list[Path | None]:
    """Replace the check by given results; the list gets what each was asked with."""
    asked: list[Path | None] = []
    left = iter(statuses)

    def check(path: Path | None) -> int:
        asked.append(path)
        return next(left)

    monkeypatch.setattr(compile_kernels, "check", check)
    monkeypatch.setattr(compile_kernels, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["compile_kernels", *versions])
    return asked


@pytest.mark.usefixtures("no_index")
def test_a_version_that_cannot_be_had_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = run_with(monkeypatch, tmp_path, versions=["3.9.0"])

    assert compile_kernels.main() == 0

    assert asked == []
    assert "skipped Triton 3.9.0: ERROR: No matching distribution" in capsys.readouterr().out
    assert not (tmp_path / "triton-3.9.0").exists()


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize("statuses", [(0, 0), (0, 1), (2, 0)])
def test_versions_that_are_there_are_all_checked(
    statuses: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = ["3.8.0", "3.9.0"]
    homes = [tmp_path / f"triton-{version}" for version in versions]
    for home in homes:
        home.mkdir()
    asked = run_with(monkeypatch, tmp_path, *statuses, versions=versions)

    assert compile_kernels.main() == max(statuses)

    assert asked == homes


@pytest.mark.parametrize("status", [0, 1])
def test_without_a_version_the_installed_one_is_checked(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run_with(monkeypatch, tmp_path, status)

    assert compile_kernels.main() == status

    assert asked == [None]
