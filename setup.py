"""The one thing that pyproject.toml cannot say: the native operations of the CPU device.

They are plain C without Python's headers. Where no compiler is at hand the installation succeeds
all the same, and the operations in PyTorch serve.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("kernels/cpu/native/source")
# Not -ffast-math: -inf and NaN have to stay what they are. And -fno-wrapv: Python is built with
# -fwrapv, whose flags come first, and under which GCC keeps fewer sums in registers.
FLAGS = "-std=gnu11 -O3 -g0 -fno-wrapv -fno-math-errno -fno-trapping-math -ffp-contract=fast"

setup(
    ext_modules=[
        Extension(
            "kernels.cpu.native._library",
            sources=sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            extra_compile_args=[*FLAGS.split(), "-fvisibility=hidden", "-Wno-psabi"],
            optional=True,
        )
    ]
)
