"""The Docker engine to test on: the one that answers, else one of the test's own.

An engine of its own works in a folder and a mount namespace of its own, touches no firewall, and
has left nothing behind when its block ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.compose import commands
from tests.compose.bridge import bridge

_START_S = 60.0
_STOP_S = 60.0
_OURS = ("COMPOSE_", "TRIPTYCH_")
_CGROUPS = Path("/sys/fs/cgroup")
# It ends with the test, however that ends, and its mounts are nobody else's.
_ALONE = ("setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private")
# Clients reach published ports through the engine's own proxy, so there is no need of iptables.
_APART = (
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--exec-opt=native.cgroupdriver=cgroupfs",
)


class NoEngine(Exception):
    """There is no engine and none can be started."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    Attributes:
        docker: its command.
        compose: the command of Compose, one word or two.
        environment: what both run in.
        own: whether it is the test's own.
    """

    docker: str
    compose: tuple[str, ...]
    environment: Mapping[str, str]
    own: bool

    def run(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """What a docker command answers."""
        return commands.run((self.docker, *arguments), self.environment, stdin=stdin)

    def describe(self) -> str:
        """Versions, in a line."""
        engine = self.run("version", "--format", "{{.Server.Version}}")
        compose = commands.run((*self.compose, "version", "--short"), self.environment)
        whose = "started for the test" if self.own else "which was running"
        return f"engine {engine}, {whose}, Compose {compose.splitlines()[0]}"


@contextmanager
def available(folder: Path | None) -> Iterator[Engine]:
    """An engine for the block.

    Args:
        folder: where an engine of the test's own keeps its images; None: nowhere.

    Raises:
        NoEngine: there is none.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    environment: Mapping[str, str] = {**inherited, "PATH": commands.search_path()}
    found = commands.find("docker")
    if not found:
        raise NoEngine("there is no docker command")
    compose = _compose(environment)
    if commands.succeeds((found[0], "version"), environment):
        yield Engine(found[0], compose, environment, own=False)
        return
    with _scratch(folder) as place, _started(place, environment, found[0]) as environment:
        yield Engine(found[0], compose, environment, own=True)


def _compose(environment: Mapping[str, str]) -> tuple[str, ...]:
    candidates: list[tuple[str, ...]] = [(docker, "compose") for docker in commands.find("docker")]
    candidates += [(command,) for command in commands.find("docker-compose")]
    for candidate in candidates:
        if commands.succeeds((*candidate, "version"), environment):
            return candidate
    raise NoEngine("there is no Compose, neither `docker compose` nor docker-compose")


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """A folder that an engine can keep layers in; /tmp may be a file system that cannot."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="triptych-compose-", dir="/var/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def _started(
    place: Path, environment: Mapping[str, str], docker: str
) -> Iterator[Mapping[str, str]]:
    """Run an engine in `place`; yield the environment in which commands reach it."""
    if os.geteuid() != 0 or not commands.find("dockerd"):
        raise NoEngine("no Docker engine answers, and only root with dockerd can start one")
    reached = {**environment, "DOCKER_HOST": f"unix://{place}/engine.sock"}
    own = f"triptych{os.getpid()}"
    options = (
        *_APART,
        f"--bridge={own}",
        f"--cgroup-parent=/{own}",
        f"--host={reached['DOCKER_HOST']}",
        f"--pidfile={place}/engine.pid",
        f"--data-root={place}/data",
        f"--exec-root={place}/run",
    )
    with _bridged(own), (place / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            [*_ALONE, "dockerd", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the test, which then ends it
        )
        try:
            _await_answer(process, docker, reached, place / "engine.log")
            yield reached
        finally:
            process.terminate()
            process.wait(_STOP_S)
            _remove_cgroups(own)


@contextmanager
def _bridged(name: str) -> Iterator[None]:
    """Have a bridge for the block; where that cannot be, there is no engine."""
    with ExitStack() as having:
        try:
            having.enter_context(bridge(name))
        except OSError as error:
            raise NoEngine(f"no Docker engine answers, and none can start: {error}") from error
        yield


def _await_answer(
    process: subprocess.Popen[bytes], docker: str, environment: Mapping[str, str], log: Path
) -> None:
    deadline = time.monotonic() + _START_S
    while not commands.succeeds((docker, "version"), environment):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            raise NoEngine(f"dockerd does not start here: {said[-1] if said else 'no word'}")
        time.sleep(0.2)


def _remove_cgroups(name: str) -> None:
    """Remove the engine's groups, of each hierarchy, the innermost first; all are empty now."""
    for root in (*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")):
        for folder, _, _ in os.walk(root, topdown=False):
            os.rmdir(folder)
