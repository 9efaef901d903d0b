"""The one thing that pyproject.toml cannot say: the native operations of the CPU device.

They are plain C without Python's headers. Where no compiler is at hand the installation succeeds
all the same, and the operations in PyTorch serve.

Each body is compiled by itself for each level of instructions, side by side with others. An object
is compiled again when a file that it was made of is newer. `CFLAGS` come after our own flags.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import runpy
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

NATIVE = Path("kernels/c")
SOURCES = NATIVE / "source"
LEVELS: tuple[str, ...] = runpy.run_path(str(NATIVE / "levels.py"))["LEVELS"]
# Those that take longest come first.
BODIES = ("plan", "quantised_experts", "experts", "rows", "panels")
COMMON = ("calls", "processor", "threads")
# Not -ffast-math: -inf and NaN have to stay what they are. And -fno-wrapv: Python is built with
# -fwrapv, whose flags come first, and under which GCC keeps fewer sums in registers.
FLAGS = "-std=gnu11 -O3 -g0 -fno-wrapv -fno-math-errno -fno-trapping-math -ffp-contract=fast"
VARIABLE = "TRIPTYCH_BUILD_LEVELS"
"""Levels to compile: `all`, which is the default; `supported` by this processor; its `fastest`
alone; `none`; or their names with commas between."""


class NativeBuild(build_ext):
    """Compiles what has changed, and links it."""

    def build_extension(self, extension: Extension) -> None:
        """Build the library."""
        common = [(SOURCES / f"{name}.c", None) for name in COMMON]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            objects = list(threads.map(self._compile, *zip(*common, strict=True)))
            levels = self._levels(objects)
            units = [(SOURCES / f"{level}.c", body) for body in BODIES for level in levels]
            objects += threads.map(self._compile, *zip(*units, strict=True))
        self._link(objects, Path(self.get_ext_fullpath(extension.name)))

    def _levels(self, objects: list[str]) -> tuple[str, ...]:
        asked = os.environ.get(VARIABLE, "all")
        if asked == "all":
            return LEVELS
        if asked in ("supported", "fastest"):
            probe = Path(self.build_temp, "probe.so").absolute()
            self._link(objects, probe)
            processor = ctypes.CDLL(str(probe))
            if asked == "fastest":
                return (LEVELS[processor.fastest_level()],)
            return LEVELS[: processor.best_level() + 1]
        return tuple(asked.split(","))

    def _compile(self, source: Path, body: str | None) -> str:
        """Compile one source, a level's with one body, and return the object."""
        flags = [*FLAGS.split(), "-fvisibility=hidden", "-Wno-psabi"]
        flags += shlex.split(os.environ.get("CFLAGS", ""))
        macros = [] if body is None else [("BODY", f'"{body}.h"')]
        compiler: Any = self.compiler
        command = str([compiler.compiler_so, flags, macros])
        folder = Path(self.build_temp, hashlib.sha256(command.encode()).hexdigest()[:16])
        made, parts = folder / source.with_suffix(".o"), folder / source.with_suffix(".d")
        if not _is_fresh(made, parts):
            postargs = [*flags, "-MMD", "-MF", str(parts)]
            compiler.compile([str(source)], str(folder), macros, extra_postargs=postargs)
        return str(made)

    def _link(self, objects: list[str], made: Path) -> None:
        self.compiler.link_shared_object(objects, str(made))


def _is_fresh(made: Path, parts: Path) -> bool:
    """Whether the object is no older than the files that the compiler wrote to `parts`."""
    try:
        files = parts.read_text().partition(":")[2].replace("\\\n", " ").split()
        return all(os.path.getmtime(file) <= made.stat().st_mtime for file in files)
    except OSError:
        return False


def extensions() -> list[Extension]:
    """Return the library, if any of it is asked for."""
    asked = os.environ.get(VARIABLE, "all")
    if asked == "none":
        return []
    if asked not in ("all", "supported", "fastest") and not set(asked.split(",")) <= set(LEVELS):
        raise SetupError(
            f"{VARIABLE}: {asked!r} is neither all, supported, fastest nor none, "
            f"nor some of {','.join(LEVELS)}"
        )
    sources = [str(SOURCES / f"{name}.c") for name in (*COMMON, *LEVELS)]
    headers = [str(path) for path in sorted(SOURCES.glob("*.h"))]
    return [Extension("kernels.c._library", sources, depends=headers, optional=True)]


setup(cmdclass={"build_ext": NativeBuild}, ext_modules=extensions())
