"""Launches of each kernel: tiles, warps and pipeline stages, by GPU and by shape.

What was tuned lies beside this file in `configs/<kernel>.<gpu>.triton-<major>.<minor>.json`, what
holds without a file in `defaults.py`. Invariant: a choice depends on the GPU, Triton's version, the
kernel and the shape alone, and asking for one imports neither torch nor Triton.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType, ModuleType

from kernels.triton.defaults import DEFAULTS
from kernels.triton.launch import Config, Tuned

__all__ = [
    "Config",
    "choose",
    "forced",
    "gpu_name",
    "kernels_hash",
    "spell",
    "triton_version",
    "tuned_file",
]

FOLDER = Path(__file__).parent / "configs"
_INTERPRETER = "interpreter.py"  # never on a GPU
_SOURCES = (".py", ".json")


_forced: ContextVar[Mapping[str, Config]] = ContextVar(
    "forced launches", default=MappingProxyType({})
)


def choose(kernel: str, **shape: int) -> Config:
    """Choose how to launch a kernel.

    Args:
        kernel: its name, as in `DEFAULTS`.
        shape: sizes, what matters most first: the nearest tuned shape is nearest by the first
            size, then among those by the second, and so on, in doublings. Of equally near ones
            a tuned one wins over a default, and one that names a size over one that does not.

    Raises:
        ValueError: there is no such kernel, or what was tuned for it names a size not given here.
    """
    forced = _forced.get().get(kernel)
    if forced is not None:
        return forced
    return _nearest(kernel, gpu_name(), triton_version(), tuple(shape.items()))


@contextmanager
def forced(kernel: str, config: Config) -> Iterator[None]:
    """Launch a kernel in one way whatever its shape: to tune it, or to test a ragged tile."""
    token = _forced.set({**_forced.get(), kernel: config})
    try:
        yield
    finally:
        _forced.reset(token)


def gpu_name() -> str:
    """The GPU in use as file names spell it, "nvidia-h200"; "none" where torch sees none."""
    # Nothing can be launched before torch has made a tensor, so it need not be imported to know.
    torch = sys.modules.get("torch")
    return "none" if torch is None else _gpu_name(torch)


@cache
def _gpu_name(torch: ModuleType) -> str:
    return spell(torch.cuda.get_device_name()) if torch.cuda.is_available() else "none"


def spell(name: str) -> str:
    """A GPU's name as file names spell it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@cache
def triton_version() -> str:
    """Major and minor version of the Triton installed; "none" without one."""
    try:
        return ".".join(version("triton").split(".")[:2])
    except PackageNotFoundError:
        return "none"


def tuned_file(kernel: str, gpu: str, triton: str) -> Path:
    """The file of tuned launches: a list of `{"shape": {…}, "tiles": {…}, "num_warps": …, …}`."""
    return FOLDER / f"{kernel}.{gpu}.triton-{triton}.json"


def kernels_hash() -> str:
    """Hash of all that decides how fast kernels are: their sources and their launches."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    sources = (path for path in root.rglob("*") if path.suffix in _SOURCES)
    for path in sorted(path for path in sources if path.name != _INTERPRETER):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


# Sizes such as the number of tokens differ at every step; what was chosen for a few is kept.
@lru_cache(maxsize=4096)
def _nearest(kernel: str, gpu: str, triton: str, shape: tuple[tuple[str, int], ...]) -> Config:
    if kernel not in DEFAULTS:
        raise ValueError(f"no kernel is named {kernel!r}")
    known = (*_read(tuned_file(kernel, gpu, triton)), *DEFAULTS[kernel])
    missing = {name for tuned in known for name in tuned.shape} - dict(shape).keys()
    if missing:
        raise ValueError(f"{kernel} is tuned by {', '.join(sorted(missing))}, which was not given")
    return min(known, key=lambda tuned: _distance(tuned.shape, shape)).config


def _distance(tuned: Mapping[str, int], shape: tuple[tuple[str, int], ...]) -> tuple[float, ...]:
    return tuple(
        abs(math.log2(max(size, 1) / max(tuned[name], 1))) if name in tuned else math.inf
        for name, size in shape
    )


@cache
def _read(path: Path) -> tuple[Tuned, ...]:
    if not path.exists():
        return ()
    return tuple(
        Tuned(entry["shape"], Config(entry["tiles"], entry["num_warps"], entry["num_stages"]))
        for entry in json.loads(path.read_text())
    )
