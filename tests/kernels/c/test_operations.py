"""The compiled set serves where it was built, PyTorch's where not."""

from __future__ import annotations

import pytest

from kernels import cpu
from kernels.c import operations
from kernels.c.library import Choice, chosen
from kernels.c.operations import NativeOperations, serving


def test_the_compiled_set_serves_where_it_was_built() -> None:
    if chosen().library is None:
        pytest.skip(chosen().why_not)
    assert isinstance(serving(), NativeOperations)


def test_torch_serves_where_it_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "chosen", lambda: Choice(None, "no compiler"))
    assert serving() is cpu
