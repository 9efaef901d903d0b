"""Stand-ins in the places of the services."""

import os
import sys
from dataclasses import replace

import pytest
from support.fakes import deployments

from triptych.supervisor import supervise as module
from triptych.supervisor.plan import Deployment, plan


@pytest.fixture
def fakes(monkeypatch):
    """Have the supervisor start stand-ins; what they were told."""
    planned = []

    def plan_fakes(*args, **options):
        plans = plan(*args, **options)
        planned[:] = plans
        command = (sys.executable, deployments.FAKE)
        return [replace(one, command=(*command, one.service)) for one in plans]

    monkeypatch.setattr(module, "plan", plan_fakes)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return planned


@pytest.fixture
def deployment(tmp_path, fakes):
    return Deployment(
        checkpoint=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", grace_s=10.0
    )
