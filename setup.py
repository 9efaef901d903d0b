"""The one thing that pyproject.toml cannot say: the native operations of the CPU device.

They are plain C without Python's headers. Where no compiler is at hand the installation succeeds
all the same, and the operations in PyTorch serve.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("kernels/c/source")
# Not -ffast-math: -inf and NaN have to stay what they are. And -fno-wrapv: Python is built with
# -fwrapv, whose flags come first, and under which GCC keeps fewer sums in registers.
FLAGS = "-std=gnu11 -O3 -g0 -fno-wrapv -fno-math-errno -fno-trapping-math -ffp-contract=fast"


class ParallelBuild(build_ext):
    """Compiles the sources of an extension side by side: a level of the processor takes 20 s."""

    def build_extensions(self) -> None:
        """Build all extensions."""
        compile_some = self.compiler.compile

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor() as threads:
                compiled = threads.map(lambda one: compile_some([one], **options), sources)
                return [file for files in compiled for file in files]

        self.compiler.compile = compile_all
        super().build_extensions()


setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=[
        Extension(
            "kernels.c._library",
            sources=sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            extra_compile_args=[*FLAGS.split(), "-fvisibility=hidden", "-Wno-psabi"],
            optional=True,
        )
    ],
)
