"""What the tests of Triton kernels run under.

Kernels are interpreted, or compiled for the GPU at hand where TRIPTYCH_GPU=1 says so. Triton
decides as it is imported, for the whole process, so this comes first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
COMPILED = os.environ.get("TRIPTYCH_GPU") == "1"

if not COMPILED:
    before = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"
    if before or os.environ.setdefault("TRITON_INTERPRET", "1") != "1":
        raise pytest.UsageError(
            "Triton compiles in this process already: run tests/kernels/triton in one of its own"
        )
    from kernels.triton import interpreter

    interpreter.install()


@pytest.fixture(scope="session")
def device() -> str:
    """Where every tensor of these tests lies."""
    return "cuda" if COMPILED else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that torch has not written reads as NaN, or as the greatest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Oracles may use what torch calls nondeterministic; only the poison is wanted."""
    mark = pytest.mark.filterwarnings("ignore:.*does not have a deterministic:UserWarning")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(mark)
