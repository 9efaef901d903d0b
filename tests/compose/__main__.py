"""Build the image and run it under Compose, on a real engine: `make compose-test`.

One line a check. The exit code is 1 where one does not hold; where there is no engine to be had, a
line says so and it is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.compose import base_image, checks, faults
from tests.compose.base_image import NoImage
from tests.compose.checks import Broken
from tests.compose.commands import CommandFailed
from tests.compose.engine import Engine, NoEngine, available
from tests.compose.faults import Undisturbed
from tests.compose.load import Lost
from tests.compose.project import IMAGE, REPLICA, NotWhole, Project

_SECOND = tuple(f"{service}-2" for service in REPLICA)
_FAILURES = (Broken, CommandFailed, Lost, NotWhole)
_FILES = ("compose.yaml", "tests/compose/small-machine.yaml")
_MORE_FILES = ("compose.replicas.yaml", "tests/compose/older-cpu.yaml")
_FLOAT32 = {"TRIPTYCH_DTYPE": "float32"}


def main() -> int:
    """Run all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description=main.__doc__)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where an engine that is started keeps images"
    )
    options = parser.parse_args()
    try:
        with available(options.keep) as engine:
            _say(engine.describe())
            with base_image.wheels() as pip_arguments:
                _build(engine, base_image.choose(engine), pip_arguments)
            try:
                _test(engine)
            finally:
                if not engine.own:
                    engine.run("image", "rm", IMAGE)
    except (NoEngine, NoImage) as reason:
        _say(f"skipped: {reason}")
        return 0
    except _FAILURES as error:
        _say(f"FAILED: {error}")
        return 1
    _say("all checks hold")
    return 0


def _build(engine: Engine, base: str, pip_arguments: str) -> None:
    settings = {
        "TRIPTYCH_PYTHON": base,
        "TRIPTYCH_PIP_ARGS": pip_arguments,
        # For a registry of packages on this machine, and where an engine of one's own has no other.
        "TRIPTYCH_BUILD_NETWORK": "host",
    }
    project = Project(engine, _name("build"), settings=settings)
    _check("build", lambda: project.compose("build") and f"from {base}")


def _test(engine: Engine) -> None:
    one = Project(engine, _name("one"), _FILES, _FLOAT32)
    two = Project(engine, _name("two"), (*_FILES, *_MORE_FILES), _FLOAT32)
    with one.up() as healthy_after_s:
        _say(f"up: all services are healthy after {healthy_after_s:.1f} s")
        _check("stream", partial(checks.stream, one))
        _check("native code", partial(checks.compiled, one))
        _check("shared memory", partial(checks.shared_memory, one))
        _check("confinement", partial(checks.confined, one))
        _crashes(one)
        with two.up():
            _check("two deployments", partial(checks.apart, one, two))
            _check("CPU without AVX-512", partial(checks.without_avx512, two))
            _rollout(two)
        _check("stop", partial(checks.stopped_well, one))
    _check("process 1", partial(checks.stopped_well_as_process_1, one))
    _check("down", partial(checks.nothing_left, (one, two)))


def _crashes(project: Project) -> None:
    expected = Undisturbed()
    _check("undisturbed", partial(asyncio.run, expected.learn(project)))
    for service in ("model", "detokenizer", "tokenizer"):
        crash = faults.crash(project, service, expected)
        _check(f"kill -9 of {service}", partial(asyncio.run, crash))
    _check("kill -9 of a tokenizer's worker", partial(checks.workers_replaced, project))


def _rollout(project: Project) -> None:
    expected = Undisturbed()
    _check("undisturbed, two replicas", partial(asyncio.run, expected.learn(project)))
    replicas = (REPLICA, _SECOND)
    _check("restarts", partial(asyncio.run, faults.rollout(project, replicas, expected)))


def _name(of: str) -> str:
    return f"triptych-test-{os.getpid()}-{of}"


def _check(name: str, check: Callable[[], str]) -> None:
    began = time.monotonic()
    seen = check()
    _say(f"{name}: {seen} ({time.monotonic() - began:.1f} s)")


def _say(line: str) -> None:
    sys.stdout.write(f"compose-test: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
