"""The machine that sends the load, also the server's if the address is local."""

from __future__ import annotations

import ipaddress
import os
import platform
from pathlib import Path

from triptych.addresses import split_host

_CPU_INFO = Path("/proc/cpuinfo")


def describe(address: str) -> str:
    """Name the source of figures: this machine, or a server elsewhere that it asks.

    Args:
        address: the server's.
    """
    cores = len(os.sched_getaffinity(0))
    here = f"{_cpu_model()}, {cores} core{'s' if cores > 1 else ''}"
    return here if _is_local(address) else f"a server at {address}, asked from {here}"


def _cpu_model() -> str:
    """The kernel's name of the CPU; where it has none, the architecture."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or f"{platform.machine()} CPU"


def _is_local(address: str) -> bool:
    host = split_host(address)
    if host is None:
        return address.startswith("unix")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
