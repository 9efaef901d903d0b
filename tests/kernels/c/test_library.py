"""The level is what the processor supports and nobody forbids; without a library PyTorch serves."""

from __future__ import annotations

import _ctypes
from pathlib import Path

import pytest
import torch

from kernels.c.levels import LEVELS
from kernels.c.library import (
    VARIABLE,
    Library,
    choose_library,
    fastest,
    installed,
    supported,
)
from kernels.devices import UnsupportedDevice


@pytest.fixture
def path() -> Path:
    found = installed()
    if found is None:
        pytest.skip("the native operations were not built: is there a C compiler?")
    return found


def say_capability(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def test_the_fastest_level_serves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_capability(monkeypatch, "AVX512")

    library = choose_library(path, {}).library

    assert library is not None
    assert library.level == fastest(path)


def test_the_highest_level_is_the_fastest_but_for_pairs_on_intel(path: Path) -> None:
    slow_pairs = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    levels = [level for level in supported(path) if level != "avx512_bf16" or not slow_pairs]

    assert fastest(path) == levels[-1]


@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_chooses_among_those_supported(
    path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_capability(monkeypatch, "AVX512")

    library = choose_library(path, {VARIABLE: level}).library

    assert library is not None
    assert library.level == min(level, supported(path)[-1], key=LEVELS.index)


def test_the_next_lower_level_serves_where_the_library_lacks_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_capability(monkeypatch, "AVX512")
    monkeypatch.setattr("kernels.c.library.built", lambda path: ("portable", "avx512_bf16"))

    monkeypatch.setattr("kernels.c.library.supported", lambda path: LEVELS)

    choice = choose_library(path, {VARIABLE: "avx512_vnni"})

    assert choice.library is not None
    assert choice.library.level == "portable"
    assert "built for portable, avx512_bf16, not for avx512_vnni" in choice.why_not


def test_torch_serves_where_the_library_has_higher_levels_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.c.library.built", lambda path: ("avx512", "avx512_bf16"))

    choice = choose_library(path, {VARIABLE: "portable"})

    assert choice.library is None
    assert "built for avx512, avx512_bf16, not for portable" in choice.why_not


def test_a_level_that_the_library_lacks_is_not_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.c.library.built", lambda path: LEVELS[1:])

    with pytest.raises(ValueError, match="the library has no portable, only avx2, avx512"):
        Library(path, "portable")


def test_what_lowers_torch_lowers_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_capability(monkeypatch, "DEFAULT")

    library = choose_library(path, {}).library

    assert library is not None
    assert library.level == "portable"


def test_torch_serves_where_it_is_asked_for(path: Path) -> None:
    choice = choose_library(path, {VARIABLE: "torch"})

    assert choice.library is None
    assert VARIABLE in choice.why_not


def test_torch_serves_where_nothing_was_built() -> None:
    choice = choose_library(None, {})

    assert choice.library is None
    assert "install a C compiler" in choice.why_not


def test_torch_serves_where_the_library_is_broken(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")

    choice = choose_library(broken, {})

    assert choice.library is None
    assert "cannot be loaded" in choice.why_not


def test_torch_serves_where_the_library_has_other_functions() -> None:
    choice = choose_library(Path(_ctypes.__file__), {})

    assert choice.library is None
    assert "built from other sources" in choice.why_not


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedDevice, match=f"{VARIABLE}: 'sse9' is none of portable, avx2"):
        choose_library(None, {VARIABLE: "sse9"})


def test_a_level_that_the_processor_lacks_is_not_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.c.library.supported", lambda path: ("portable",))

    with pytest.raises(ValueError, match="does not support avx2"):
        Library(path, "avx2")
