"""The machine that figures were taken on, in general words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# The widest that a processor has decides how fast it multiplies.
_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512"}
_INSTRUCTIONS |= {"avx2": "AVX2", "asimd": "NEON"}


def describe() -> str:
    """Cores that may be used, kind of CPU, memory."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kind = ", ".join([platform.machine(), *instructions(info)[:1]])
    cpu = _field(info, "model name") or "an unnamed CPU"
    return f"{cores} cores of {cpu} ({kind}), {memory_gib:.0f} GiB"


def instructions(info: str) -> list[str]:
    """The vector instructions named by `info`, which is what /proc/cpuinfo says, widest first."""
    flags = (_field(info, "flags") or _field(info, "Features")).split()
    return [name for flag, name in _INSTRUCTIONS.items() if flag in flags]


def _field(info: str, name: str) -> str:
    for line in info.splitlines():
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""
