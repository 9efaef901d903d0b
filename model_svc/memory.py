"""Available memory, and the number of KV slots that fit in it."""

from __future__ import annotations

from pathlib import Path

import torch

from chassis.errors import StartError

# A pool smaller than this cannot hold a prompt and an answer worth the name.
LEAST_SLOTS = 64
_MOST_AUTOMATIC_SLOTS = 131_072
_AUTOMATIC_SHARE = 0.25

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int:
    """Bytes of memory left on a GPU, or on the machine, or in its control group if less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = _MEMINFO.read_text().splitlines()
    machine = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        current = int((_CGROUP / "memory.current").read_text())
    except OSError:
        return machine
    return machine if limit == "max" else min(machine, int(limit) - current)


def choose_slots(asked: int, slot_bytes: int, available: int, *, sharers: int = 1) -> int:
    """Number of slots of the KV pool.

    Args:
        asked: the operator's number; 0: a quarter of the memory, at most 131,072.
        slot_bytes: bytes of one slot in all layers.
        available: bytes that can be had.
        sharers: model processes that divide this quarter among them.

    Raises:
        StartError: they are too few to hold a request, or more than memory holds.
    """
    fitting = available // slot_bytes
    slots = asked or min(_MOST_AUTOMATIC_SLOTS, int(fitting * _AUTOMATIC_SHARE / sharers))
    if slots < LEAST_SLOTS:
        raise StartError(
            f"a KV pool of {slots} tokens is too small for one request: "
            f"give --kv-tokens (TRIPTYCH_MODEL_KV_TOKENS) at least {LEAST_SLOTS}"
        )
    if slots > fitting:
        raise StartError(
            f"a KV pool of {slots} tokens takes {slots * slot_bytes >> 20} MiB and "
            f"{available >> 20} MiB are available: lower --kv-tokens (TRIPTYCH_MODEL_KV_TOKENS) "
            f"to at most {fitting}"
        )
    return slots
