"""Folders stay small, and imports point one way: between modules and between packages."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("router", "tokenizer_svc", "model_svc", "detokenizer_svc")
PACKAGES = ("protos", "chassis", "kernels", *SERVICES, "triptych", "bench", "tools")
SOURCES = {".py", ".c", ".h", ".proto"}
MOST_FILES = 15
# Larger folders, each with a number that may only fall.
LARGER = {"kernels/c/source": 31}

Graph = Mapping[str, set[str]]


def too_large(files: list[str]) -> dict[str, int]:
    """Folders with more hand-written sources than `MOST_FILES` or `LARGER` allows."""
    written = [
        path
        for path in map(PurePosixPath, files)
        if path.suffix in SOURCES and "_pb2" not in path.name and path.name != "__init__.py"
    ]
    counts = Counter(str(path.parent) for path in written)
    return {
        folder: count for folder, count in counts.items() if count > LARGER.get(folder, MOST_FILES)
    }


def cycle(graph: Graph) -> list[str]:
    """One cycle of imports, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@cache
def modules() -> dict[str, set[str]]:
    """Imports between all modules, those for type checking included."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def packages(graph: Graph, service: str) -> dict[str, set[str]]:
    """Imports between the packages of a service."""
    found: dict[str, set[str]] = {}
    for module, imported in graph.items():
        package = _package(module, service)
        if package is not None:
            others = {_package(each, service) for each in imported} - {None, package}
            found.setdefault(package, set()).update(each for each in others if each is not None)
    return found


def _package(module: str, service: str) -> str | None:
    names = module.split(".")
    return ".".join(names[:2]) if names[0] == service and len(names) > 2 else None


def test_a_large_folder_is_found() -> None:
    files = [f"a/{number}.py" for number in range(16)] + [f"b/{n}_pb2.py" for n in range(16)]
    assert too_large(files) == {"a": 16}


def test_a_cycle_of_packages_is_found_though_no_modules_are_in_one() -> None:
    graph = {"s.a.x": {"s.b.x"}, "s.b.x": set(), "s.b.y": {"s.a.y"}, "s.a.y": set()}
    assert not cycle(graph)
    assert set(cycle(packages(graph, "s"))) == {"s.a", "s.b"}


def test_no_folder_has_more_files_than_a_reader_overlooks() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert too_large([path for path in listed if (ROOT / path).exists()]) == {}


def test_no_modules_import_each_other_for_type_checking_either() -> None:
    assert cycle(modules()) == []


@pytest.mark.parametrize("service", PACKAGES)
def test_packages_of_a_service_point_one_way(service: str) -> None:
    assert cycle(packages(modules(), service)) == []
