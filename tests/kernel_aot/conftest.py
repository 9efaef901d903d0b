"""What the ahead-of-time check of kernels runs under: a process of its own, run by name.

Kernels that are compiled and kernels that are interpreted do not mix in a process, so nothing here
is collected unless this folder is asked for: `python -m pytest tests/kernel_aot`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def asked_for(config: pytest.Config) -> bool:
    """Whether the command names this folder, or something in it."""
    paths = [config.invocation_params.dir / arg.split("::")[0] for arg in config.args]
    return all(path.resolve().is_relative_to(HERE) for path in paths)


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave the folder out of runs that are not its own."""
    return None if asked_for(config) else True


def pytest_configure(config: pytest.Config) -> None:
    """Keep what was compiled between runs; Triton knows a source that has changed."""
    if not asked_for(config):
        return
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise pytest.UsageError("kernels are compiled here: unset TRITON_INTERPRET")
    if config.pluginmanager.has_plugin("cacheprovider"):
        os.environ.setdefault("TRITON_CACHE_DIR", str(config.cache.mkdir("triton")))
    # As it is by default up to Triton 3.9, which warns that this will change.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
