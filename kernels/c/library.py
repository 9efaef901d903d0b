"""Find the compiled operations and choose the level of instructions that they run at.

A library has every function at some of the levels, see setup.py; the fastest that processor and
system support is taken, unless the environment asks for another, and the next lower one where the
library lacks it. Invariant: a `Library` never runs instructions that this processor lacks.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from kernels.c.arguments import CALL, RUN_CALLS, SIZES
from kernels.c.levels import LEVELS
from kernels.devices import UnsupportedDevice

VARIABLE = "TRIPTYCH_CPU_LEVEL"
"""The highest level to use instead of the fastest, or `torch` for none of ours."""

Function = Callable[[bytes], int]
"""Takes its arguments packed as the structure that its source declares."""

# torch obeys ATEN_CPU_CAPABILITY; so do we.
_LEVEL_OF_TORCH = {"DEFAULT": "portable", "AVX2": "avx2"}
_REMEDY = "install a C compiler and install Triptych again"


class Library:
    """The compiled functions at one level."""

    def __init__(self, path: Path, level: str) -> None:
        """Load the library at `path`.

        Raises:
            OSError: it cannot be loaded, or was built from other sources.
            ValueError: the processor or the library lacks the level.
        """
        self._loaded = ctypes.CDLL(str(path))
        if level not in supported(path):
            raise ValueError(f"this processor does not support {level}")
        if level not in built(path):
            raise ValueError(f"the library has no {level}, only {', '.join(built(path))}")
        self.level = level
        expected = {f"{name}_size_{level}": size for name, size in SIZES.items()}
        expected |= {"run_calls_size": RUN_CALLS.size, "call_size": CALL.size}
        for symbol, size in expected.items():
            try:
                own = self._number(symbol)
            except ValueError:
                own = 0
            if own != size:
                raise _from_other_sources(path)
        self._loaded.set_parallel.argtypes = [ctypes.c_void_p]
        self._loaded.set_parallel.restype = None
        self._loaded.set_parallel(_parallel_of_torch())

    def function(self, name: str) -> Function:
        """The function called `name`, at this level."""
        return self._symbol(f"{name}_{self.level}")

    def address(self, name: str) -> int:
        """Address of the same function."""
        function = self._loaded[f"{name}_{self.level}"]
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def constant(self, name: str) -> int:
        """The number called `name`, at this level."""
        return self._number(f"{name}_{self.level}")

    @property
    def run_calls(self) -> Function:
        """The function that runs others; see source/calls.c."""
        return self._symbol("run_calls")

    def _number(self, symbol: str) -> int:
        return ctypes.c_int64.in_dll(self._loaded, symbol).value

    def _symbol(self, symbol: str) -> Function:
        found: Function = self._loaded[symbol]
        # A bytes object is passed as the address of what it holds; OpenMP's threads read it, and
        # the caller keeps it until they are done.
        found.argtypes = [ctypes.c_char_p]  # type: ignore[attr-defined]
        found.restype = ctypes.c_int64  # type: ignore[attr-defined]
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """The library of this machine, if there is one.

    Attributes:
        library: the compiled functions, or None where the operations in PyTorch serve.
        why_not: why there is no library, or a lower level than could run, and what to do about it;
            empty where the fastest serves.
    """

    library: Library | None
    why_not: str = ""


def supported(path: Path) -> tuple[str, ...]:
    """The levels that this processor supports, as the library at `path` tells."""
    return LEVELS[: _answer(path, "best_level") + 1]


def built(path: Path) -> tuple[str, ...]:
    """The levels that the library at `path` was built with."""
    loaded = ctypes.CDLL(str(path))
    return tuple(level for level in LEVELS if hasattr(loaded, f"take_rows_{level}"))


def fastest(path: Path) -> str:
    """The level at which the library at `path` is fastest on this processor.

    Not always the highest: Intel's processors are slower with products of bfloat16 than of floats.
    """
    return LEVELS[_answer(path, "fastest_level")]


def installed() -> Path | None:
    """Path of the library, if it was built."""
    beside = (Path(__file__).with_name(f"_library{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((path for path in beside if path.exists()), None)


@lru_cache(maxsize=1)
def load_library() -> Choice:
    """Load the library of this machine; found once.

    Raises:
        UnsupportedDevice: the environment asks for a level that does not exist.
    """
    return choose_library(installed(), os.environ)


def choose_library(path: Path | None, env: Mapping[str, str]) -> Choice:
    """Choose the level of the library at `path`, None for one that was not built.

    Raises:
        UnsupportedDevice: the environment asks for a level that does not exist.
    """
    asked = env.get(VARIABLE)
    if asked == "torch":
        return Choice(None, f"{VARIABLE} asks for PyTorch's operations")
    if asked is not None and asked not in LEVELS:
        raise UnsupportedDevice(f"{VARIABLE}: {asked!r} is none of {', '.join(LEVELS)}, torch")
    if path is None:
        return Choice(None, f"the native operations were not built: {_REMEDY}")
    try:
        highest = min(_highest(path), fastest(path) if asked is None else asked, key=LEVELS.index)
        levels = [level for level in built(path) if LEVELS.index(level) <= LEVELS.index(highest)]
        library = Library(path, levels[-1]) if levels else None
        return Choice(library, "" if highest in levels else _lacking(path, highest))
    except OSError as error:
        return Choice(None, f"the native operations cannot be loaded ({error}): {_REMEDY}")


def _highest(path: Path) -> str:
    """The highest level that processor and torch's own choice allow."""
    ceiling = _LEVEL_OF_TORCH.get(torch.backends.cpu.get_cpu_capability(), LEVELS[-1])
    return min(supported(path)[-1], ceiling, key=LEVELS.index)


def _lacking(path: Path, highest: str) -> str:
    return (
        f"the native operations were built for {', '.join(built(path))}, not for {highest}: "
        "set TRIPTYCH_BUILD_LEVELS=all and install Triptych again"
    )


def _answer(path: Path, function: str) -> int:
    """Call a function of the library at `path`; raises OSError where there is none."""
    try:
        answer = ctypes.CDLL(str(path))[function]
    except AttributeError:
        raise _from_other_sources(path) from None
    answer.restype = ctypes.c_int64
    return int(answer())


def _from_other_sources(path: Path) -> OSError:
    return OSError(f"{path.name} was built from other sources")


def _parallel_of_torch() -> int | None:
    """The address at which torch's own OpenMP runs a function on its threads, if it is known.

    Looking it up in torch's library finds the runtime that torch calls, and no other that some
    package may have loaded.
    """
    here = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    if not here.exists():
        return None
    try:
        parallel = ctypes.CDLL(str(here)).GOMP_parallel
    except AttributeError:
        return None
    return ctypes.cast(parallel, ctypes.c_void_p).value
