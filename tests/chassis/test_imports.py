"""A process that this one starts imports nothing that others may have put somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from chassis import imports
from chassis.imports import ROOT, import_environment, refusal, refused_folders

OURS = ("chassis", "protos", "kernels", "router", "tokenizer_svc", "model_svc", "detokenizer_svc")
IMPORT = """
import sys
for name in sys.argv[1:]:
    print(getattr(__import__(name), "__file__", None) or name)
"""


def imported(folder: Path, environment: Mapping[str, str], *names: str) -> list[str]:
    """Places where a process in `folder` finds modules."""
    command = [sys.executable, "-c", IMPORT, *names]
    told = import_environment(environment)
    ended = subprocess.run(
        command, cwd=folder, env=told, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """A folder with a file for the name of each module there is, that ends whoever imports it."""
    third = {"grpc", "google", "uvloop", "numpy", "torch", "tokenizers", "jinja2", "typer"}
    for name in {*sys.stdlib_module_names, *third, *OURS, "sitecustomize", "usercustomize"}:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} is shadowed')")
    return tmp_path


@pytest.mark.parametrize("path", [None, "", ".", ":", ".:/nowhere", "relative::", "{shared}"])
def test_no_name_is_taken_from_the_working_directory_or_where_others_may_write(
    shadows: Path, path: str | None
) -> None:
    shadows.chmod(0o777)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path.format(shared=shadows)
    found = imported(shadows, environment, *OURS, "grpc", "uvloop", "json", "random")
    assert found[: len(OURS)] == [str(ROOT / name / "__init__.py") for name in OURS]
    assert not [place for place in found if place.startswith(str(shadows))]


def test_a_folder_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert imported(tmp_path, environment, "mine") == [str(tmp_path / "mine.py")]


def test_packages_that_are_not_installed_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    path = sys.path
    for found in ([*path, str(tmp_path)], [str(tmp_path), *path, str(tmp_path)]):
        monkeypatch.setattr(sys, "path", found)
        assert "PYTHONPATH" not in import_environment({}), "`site` adds it after the library"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *path])
    assert import_environment({"PYTHONPATH": str(ROOT)})["PYTHONPATH"] == f"{tmp_path}:{ROOT}"


@pytest.mark.parametrize("name", ["PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX"])
def test_other_folders_to_load_from_are_looked_at_too(tmp_path: Path, name: str) -> None:
    assert import_environment({name: str(tmp_path)})[name] == str(tmp_path)
    tmp_path.chmod(0o777)
    assert name not in import_environment({name: str(tmp_path)})
    assert name not in import_environment({name: "here"})
    assert refused_folders({name: str(tmp_path)}) == {name: f"other users may write to {tmp_path}"}


def test_nothing_waits_at_a_prompt_and_libraries_come_from_where_they_are_said_to() -> None:
    told = import_environment({"PYTHONINSPECT": "1", "LD_LIBRARY_PATH": ":/opt/lib::lib", "A": "b"})
    assert told == {"LD_LIBRARY_PATH": "/opt/lib", "A": "b", "PYTHONSAFEPATH": "1"}


ISOLATED = """
import os
from chassis.imports import import_environment
print(sorted(name for name in import_environment(os.environ) if name.startswith("PYTHON")))
"""


def test_what_this_process_was_not_to_heed_is_not_handed_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONOPTIMIZE": "2"}
    command = [sys.executable, "-I", "-c", ISOLATED]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "['PYTHONNOUSERSITE', 'PYTHONSAFEPATH']\n"


def test_a_folder_is_refused_for_what_is_above_it(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert refusal(str(inner)) is None, "though /tmp is open to all"
    inner.parent.chmod(0o777)
    assert refusal(str(inner)) == f"other users may write to {inner.parent}"
    inner.parent.chmod(0o1777)
    assert refusal(str(inner)) is None
    assert refusal("/nowhere/at/all") is None
    assert refusal("here") == "it is relative to the working directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    assert refusal(str(tmp_path)) == f"{tmp_path} belongs to another user"
