"""The machine that figures were taken on, in general words."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> str:
    """Cores that may be used, kind of CPU, memory."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores of {_cpu()} ({platform.machine()}), {memory_gib:.0f} GiB"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unnamed CPU"
