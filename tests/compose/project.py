"""A deployment under Compose, and what can be asked of it or done to it from this machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.compose import commands
from tests.compose.base_image import ROOT
from tests.compose.commands import CommandFailed
from tests.compose.engine import Engine

IMAGE = "triptych-compose-test"
REPLICA = ("model", "detokenizer")
_PORT = "50051"
_WHOLE_S = 180.0
_LABEL = "com.docker.compose"
_LOG_LINES = "15"
_LOOK_AGAIN_S = 0.5  # each look is a process, and takes its CPU time from what is tested


class NotWhole(Exception):
    """A container did not become healthy."""


@dataclass(frozen=True)
class Project:
    """A deployment, running or not.

    Attributes:
        engine: it runs on.
        name: of the project, which keeps it apart from others.
        files: of Compose, in their order.
        settings: variables that those files read.
    """

    engine: Engine
    name: str
    files: Sequence[str] = ("compose.yaml",)
    settings: Mapping[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str) -> str:
        """What a command of Compose answers."""
        files = [word for file in self.files for word in ("--file", str(ROOT / file))]
        settings = {"TRIPTYCH_IMAGE": IMAGE, "TRIPTYCH_PORT": "0", **self.settings}
        return commands.run(
            (*self.engine.compose, "--project-name", self.name, *files, *arguments),
            {**self.engine.environment, **settings},
        )

    @contextmanager
    def up(self) -> Iterator[float]:
        """Have it run for the block; yield how long that took, in seconds.

        The ends of its logs are told where something fails, in the block too.
        """
        with ExitStack() as ending:
            ending.callback(self.compose, "down", "--volumes", "--remove-orphans")
            with ExitStack() as failing:
                failing.callback(self._tell_logs)
                began = time.monotonic()
                self.compose("up", "--detach", "--no-build")
                self.await_healthy(*self.services())
                yield time.monotonic() - began
                failing.pop_all()

    def _tell_logs(self) -> None:
        with suppress(CommandFailed):
            sys.stderr.write(self.compose("logs", "--no-color", "--tail", _LOG_LINES) + "\n")

    def services(self) -> list[str]:
        """Names of its services that have containers."""
        named = ("--format", f'{{{{.Label "{_LABEL}.service"}}}}')
        return self.engine.run("ps", "--all", "--filter", self._own, *named).split()

    def address(self) -> str:
        """Where clients on this machine reach the router; it changes when that is started."""
        return self.compose("port", "router", _PORT)

    def container(self, service: str) -> str:
        """The id of a service's container."""
        own = (self._own, "--filter", f"label={_LABEL}.service={service}")
        return self.engine.run("ps", "--all", "--quiet", "--filter", *own)

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        inspected: dict[str, Any] = json.loads(
            self.engine.run("container", "inspect", self.container(service))
        )[0]
        return inspected

    def execute(self, service: str, *command: str) -> str:
        """What a command in a service's container writes."""
        return self.engine.run("exec", self.container(service), *command)

    def python(self, service: str, code: str) -> str:
        """What a piece of Python in a service's container writes."""
        return self.execute(service, "python", "-c", code)

    def await_healthy(self, *services: str) -> None:
        """Wait until the containers of `services` are healthy.

        Raises:
            NotWhole: one is not, after a while.
        """
        deadline = time.monotonic() + _WHOLE_S
        for service in services:
            while (health := self._health(service)) != "healthy":
                if time.monotonic() > deadline:
                    raise NotWhole(f"{self.name}: {service} is {health}")
                time.sleep(_LOOK_AGAIN_S)

    def _health(self, service: str) -> str:
        return str(self.inspect(service)["State"].get("Health", {}).get("Status", "not checked"))

    def crash(self, service: str) -> None:
        """Have a service's process die at once, and wait until its container is another life's.

        The process is killed from inside the container: whom `docker kill` ends, the engine takes
        for stopped on purpose.
        """
        before = self.inspect(service)
        # The shell may go with its container before it has told how it ended.
        with suppress(CommandFailed):
            self.execute(service, "sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
        deadline = time.monotonic() + _WHOLE_S
        while (now := self.inspect(service))["RestartCount"] == before["RestartCount"]:
            if time.monotonic() > deadline:
                raise NotWhole(f"{self.name}: {service} was not started again: {now['State']}")
            time.sleep(_LOOK_AGAIN_S)

    def restart(self, *services: str) -> None:
        """Stop and start containers as an operator does, and wait until they are healthy."""
        self.compose("restart", "--timeout", "15", *services)
        self.await_healthy(*services)

    def left(self) -> list[str]:
        """Names of containers, networks and volumes that the engine has of it."""
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [
            name
            for kind in kinds
            for name in self.engine.run(*kind, "--quiet", "--filter", self._own).split()
        ]

    @property
    def _own(self) -> str:
        return f"label={_LABEL}.project={self.name}"
