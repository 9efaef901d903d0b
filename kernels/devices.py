"""Devices: their dtypes, their memory, and their refusal.

Invariant: what a device lacks is refused by name, with the remedy.
"""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that every device computes in."""


class UnsupportedDevice(Exception):
    """A device, dtype, format or option for which there is no operation."""


def memory_of(device: str) -> torch.device:
    """The memory of tensors of `device`: for an interpreted GPU, the machine's own."""
    return torch.device("cuda" if device == "cuda" else "cpu")
