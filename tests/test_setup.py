"""The installation builds what it can, and its parts are enough for what they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kernels.c.library import built, choose_library

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [
    pattern.removesuffix("*")
    for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
]
NO_COMPILER = {**os.environ, "CC": "/nowhere/no-compiler"}


def test_without_a_compiler_the_installation_succeeds(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "setup.py", "build_ext"),
        *("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")),
    ]

    done = subprocess.run(
        command, cwd=ROOT, env=NO_COMPILER, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert 'building extension "kernels.c._library" failed' in done.stdout + done.stderr
    assert list(tmp_path.rglob("*.so")) == []


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of an installation, in a folder with the name of a package of it."""
    folder = tmp_path_factory.mktemp("beside") / "triptych"
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(clone: Path, kind: str, folder: Path) -> Path:
    """Install a build of `kind`, `wheel` or `editable`, in a new folder, without a compiler."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    subprocess.run(command, cwd=clone, env=NO_COMPILER, capture_output=True, check=True)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as opened:
        opened.extractall(folder / "installed")
    return folder / "installed"


def compile_portable(clone: Path, folder: Path) -> Path:
    """Compile the clone's native operations at one level and unoptimised, which takes seconds."""
    command = [
        *(sys.executable, "setup.py", "build_ext"),
        *("--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")),
    ]
    environment = {**os.environ, "TRIPTYCH_BUILD_LEVELS": "portable", "CFLAGS": "-O0"}
    subprocess.run(command, cwd=clone, env=environment, capture_output=True, check=True)
    found = list(folder.glob("lib/kernels/c/_library*.so"))
    if not found:
        pytest.skip("the native operations were not built: is there a C compiler?")
    return found[0]


def test_only_the_levels_asked_for_are_built(clone: Path, tmp_path: Path) -> None:
    library = compile_portable(clone, tmp_path)

    assert built(library) == ("portable",)
    assert choose_library(library, {"TRIPTYCH_CPU_LEVEL": "portable"}).why_not == ""


def test_a_level_that_does_not_exist_is_not_built(clone: Path) -> None:
    environment = {**NO_COMPILER, "TRIPTYCH_BUILD_LEVELS": "portable,sse9"}
    command = [sys.executable, "setup.py", "build_ext"]

    ended = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)

    assert ended.returncode != 0
    assert "TRIPTYCH_BUILD_LEVELS: 'portable,sse9' is neither all, supported" in ended.stderr


def test_only_what_is_made_of_a_changed_file_is_compiled_again(clone: Path, tmp_path: Path) -> None:
    def compiled() -> dict[Path, int]:
        compile_portable(clone, tmp_path)
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.o")}

    first, second = compiled(), compiled()
    header = clone / "kernels" / "c" / "source" / "panels.h"
    header.write_text(header.read_text() + "/* A change. */\n")
    third = compiled()

    assert second == first
    changed = [path for path, time_ns in third.items() if first[path] != time_ns]
    assert len(changed) == 1
    assert "panels.h" in changed[0].with_suffix(".d").read_text()


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(clone, "wheel", tmp_path_factory.mktemp("wheel"))


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that `requirements` bring, theirs too."""
    found: set[str] = set()
    wanted = [Requirement(one) for one in requirements]
    while wanted:
        one = wanted.pop()
        applies = one.marker is None or one.marker.evaluate({"extra": ""})
        if applies and one.name not in found:
            found.add(one.name)
            wanted += map(Requirement, metadata.requires(one.name) or ())
    return found


@pytest.fixture(scope="module")
def client_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the client depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("dependencies")
    for name in needed(PROJECT["project"]["dependencies"]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def run(
    *arguments: str, on: Iterable[Path], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Python with the standard library and what is `on` the path."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, on))}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd or "/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contract_and_its_types_are_in_the_wheel(wheel: Path) -> None:
    protos = {path.name for path in (ROOT / "protos").glob("*.proto")}

    assert {path.name for path in (wheel / "protos").glob("*.proto")} == protos
    assert (wheel / "triptych" / "py.typed").exists()
    assert (wheel / "protos" / "py.typed").exists()


def test_the_client_needs_nothing_of_the_server(wheel: Path, client_only: Path) -> None:
    code = "from triptych import AsyncClient, Client, Options; Client('127.0.0.1:9').close()"

    ended = run("-c", code, on=(wheel, client_only))

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [("generate", "hi"), ("chat",), ("status",), ("bench",)],
    ids=["generate", "chat", "status", "bench"],
)
def test_commands_that_talk_to_a_server_need_nothing_of_it(
    wheel: Path, client_only: Path, arguments: tuple[str, ...]
) -> None:
    ended = run("-m", "triptych", *arguments, "--address", "127.0.0.1:9", on=(wheel, client_only))

    assert ended.returncode == 1
    assert ended.stderr.startswith("triptych: nothing answers at 127.0.0.1:9"), ended.stderr


def test_serving_without_the_server_says_what_to_install(wheel: Path, client_only: Path) -> None:
    ended = run("-m", "triptych", "serve", "--model", "/nowhere", on=(wheel, client_only))

    assert ended.returncode == 1
    assert "pip install 'triptych[serve]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert run("-m", "triptych", "serve", "--help", on=(wheel, client_only)).returncode == 0


def test_the_client_is_found_beside_the_clone_that_is_installed(
    clone: Path, client_only: Path, tmp_path: Path
) -> None:
    installed = build(clone, "editable", tmp_path)
    code = f"import site; site.addsitedir({str(installed)!r}); from triptych import Client"

    for folder in (clone.parent, clone, tmp_path):
        ended = run("-c", code, on=(client_only,), cwd=folder)
        assert (ended.returncode, ended.stderr) == (0, ""), folder


def test_the_client_is_found_beside_a_clone_that_is_not_installed(
    wheel: Path, clone: Path, client_only: Path
) -> None:
    code = "from triptych import Client; import triptych; print(triptych.__file__)"

    ended = run("-c", code, on=(wheel, client_only), cwd=clone.parent)

    assert ended.stdout.startswith(str(wheel)), ended.stderr
