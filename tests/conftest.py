"""What every test runs under."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings

# Examples differ from run to run at a desk, to find more; in CI they repeat, so that a failure
# belongs to the change that shows it. No deadline: a busy machine is not a defect.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("triptych")
    group.addoption(
        "--full",
        action="store_true",
        help="the kernels' sweeps whole at every level of instructions",
    )
    group.addoption("--sweep-seed", type=int, help="chooses the part of those sweeps otherwise")


def pytest_configure(config: pytest.Config) -> None:
    # Like hypothesis' examples. By the environment, since xdist's processes parse options anew.
    if config.option.sweep_seed is None:
        drawn = 0 if os.environ.get("CI") else random.randrange(1 << 16)
        config.option.sweep_seed = int(os.environ.setdefault("TRIPTYCH_SWEEP_SEED", str(drawn)))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.sweep_seed
    return f"sweeps of kernels: {'whole' if config.option.full else f'--sweep-seed {seed}'}"
