"""Threads, draws and operations that the tests of operations run with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from support.kernels.operations import compiled, in_torch
from support.kernels.sweeps import part_of_sweeps

from kernels.c.levels import LEVELS
from kernels.c.library import Library, built, installed, supported
from kernels.ops import Operations


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.full:
        chosen = part_of_sweeps(items, config.option.sweep_seed)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
        items[:] = [item for item in items if item.nodeid in chosen]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are multiplied faster than threads meet, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Random inputs repeat, so that a failure does too."""
    torch.manual_seed(0)


def _library() -> Path | None:
    """The compiled operations: those installed, unless a test has built others."""
    built = os.environ.get("TRIPTYCH_TEST_LIBRARY")
    return Path(built) if built else installed()


@cache
def _loaded(level: str) -> Library:
    """The compiled functions at `level`, or skip where they cannot run."""
    path = _library()
    if path is None:
        pytest.skip("the native operations were not built: is there a C compiler?")
    if level not in supported(path):
        pytest.skip(f"this processor does not support {level}")
    if level not in built(path):
        if "TRIPTYCH_TEST_LIBRARY" in os.environ:
            pytest.skip(f"the library to be tested has no {level}")
        pytest.fail(f"the library has no {level}: run `make native LEVELS=supported`")
    return Library(path, level)


@cache
def _native(level: str) -> Operations:
    return compiled(_loaded(level))


@pytest.fixture(params=["torch", *LEVELS])
def operations(request: pytest.FixtureRequest) -> Operations:
    return in_torch() if request.param == "torch" else _native(request.param)


@pytest.fixture(params=LEVELS)
def native_operations(request: pytest.FixtureRequest) -> Operations:
    return _native(request.param)


@pytest.fixture(params=LEVELS)
def native_library(request: pytest.FixtureRequest) -> Library:
    return _loaded(request.param)
