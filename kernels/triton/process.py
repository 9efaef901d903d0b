"""Preparation of a process for Triton's kernels.

Invariant: nothing of Triton is imported before it is known whether this process compiles kernels
or interprets them, which it then does for as long as it lives.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

from kernels.devices import UnsupportedDevice

_INTERPRET = "TRITON_INTERPRET"


def prepare_triton(device: str) -> None:
    """Make this process ready to import kernels.

    Args:
        device: "cuda" to compile them, "interpret" to interpret them.

    Raises:
        UnsupportedDevice: they could not run here; the message says what to do.
    """
    if importlib.util.find_spec("triton") is None:
        raise UnsupportedDevice(
            f"device {device!r} needs Triton, which is not installed: "
            "pip install 'triptych[kernels]', or run with --device cpu"
        )
    if device == "interpret":
        _interpret()
    elif not torch.cuda.is_available():
        raise UnsupportedDevice(
            "PyTorch finds no GPU for device 'cuda': it may be a build without CUDA, or the driver "
            "may be missing; run with --device cpu"
        )
    elif os.environ.get(_INTERPRET, "0") != "0":
        raise UnsupportedDevice(
            f"{_INTERPRET} is set, so kernels would be interpreted: unset it for device 'cuda'"
        )


def _interpret() -> None:
    if "triton" not in sys.modules:
        os.environ[_INTERPRET] = "1"
    from kernels.triton import interpreter

    try:
        interpreter.install()
    except interpreter.CompilesAlready as error:
        raise UnsupportedDevice(f"device 'interpret' cannot be had here: {error}") from error
