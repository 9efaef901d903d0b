"""Several hosts on one machine: network namespaces on a switch, each with its own shared memory.

They see each other by address only, as machines do; a cable can be pulled and put back.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from support.deployments import local

_STOP_S = 20


def why_not() -> str:
    """Why there can be no such hosts here; empty where there can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip (iproute2) and unshare (util-linux)"
    name = f"triptych-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """One of them; `cable` is its end of the cable, in the switch's namespace."""

    namespace: str
    address: str
    switch: str
    cable: str

    def pull_cable(self) -> None:
        """Cut it off; what is under way is lost, and no connection is closed."""
        _ip("-n", self.switch, "link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Connect it again."""
        _ip("-n", self.switch, "link", "set", self.cable, "up")

    @contextmanager
    def running(self, module: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `python -m module` there for the block, set by variables alone."""
        name = module.removesuffix("_svc").upper()
        told = {f"TRIPTYCH_{name}_{key.upper()}": value for key, value in settings.items()}
        alone = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        process = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.namespace,
                "sh",
                "-c",
                alone,
                "sh",
                sys.executable,
                "-m",
                module,
            ],
            cwd=local.ROOT,
            env={**os.environ, **told},
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(_STOP_S) == 0, f"{module} did not end cleanly"
            finally:
                process.kill()


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make `count` hosts for the block."""
    switch = f"triptych-{os.getpid()}-switch"
    with ExitStack() as made:
        _namespace(made, switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        yield [_host(made, switch, number) for number in range(1, count + 1)]


def _namespace(made: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    made.callback(_ip, "netns", "delete", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _host(made: ExitStack, switch: str, number: int) -> Host:
    host = Host(f"triptych-{os.getpid()}-{number}", f"10.77.0.{number}", switch, f"cable{number}")
    _namespace(made, host.namespace)
    ends = ["link", "add", host.cable, "type", "veth", "peer", "name", "eth0"]
    _ip("-n", switch, *ends, "netns", host.namespace)
    _ip("-n", switch, "link", "set", host.cable, "master", "bridge", "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.namespace, "link", "set", "eth0", "up")
    return host
