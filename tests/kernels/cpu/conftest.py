"""The sets of operations that a CPU may have: PyTorch's, and the compiled one at each level."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from kernels import cpu
from kernels.c.library import LEVELS, Library, installed, supported
from kernels.c.operations import NativeOperations
from kernels.ops import Operations


def library() -> Path | None:
    """The compiled operations: those installed, unless a test has built others."""
    built = os.environ.get("TRIPTYCH_TEST_LIBRARY")
    return Path(built) if built else installed()


@cache
def loaded(level: str) -> Library:
    """The compiled functions at `level`, or skip where they cannot run."""
    path = library()
    if path is None:
        pytest.skip("the native operations were not built: is there a C compiler?")
    if level not in supported(path):
        pytest.skip(f"this processor does not support {level}")
    return Library(path, level)


@cache
def native(level: str) -> NativeOperations:
    return NativeOperations(loaded(level))


@pytest.fixture(params=["torch", *LEVELS])
def operations(request: pytest.FixtureRequest) -> Operations:
    return cpu if request.param == "torch" else native(request.param)


@pytest.fixture(params=LEVELS)
def native_operations(request: pytest.FixtureRequest) -> NativeOperations:
    return native(request.param)


@pytest.fixture(params=LEVELS)
def native_library(request: pytest.FixtureRequest) -> Library:
    return loaded(request.param)
