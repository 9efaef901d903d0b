"""The image to build on: the Dockerfile's own, else one made of Debian's packages.

What a container of such a making needs in order to install packages as this machine does (a
certificate of its own, wheels in a folder) it gets here; the project's files know nothing of it.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.compose import commands
from tests.compose.commands import CommandFailed
from tests.compose.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
_MADE = "triptych-compose-base:bookworm"
_SUITE = "bookworm"
_PACKAGES = "python3,python3-pip,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_UNUSED = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man")
_PORTS = 8923, 0  # the same each time where that is free, so that layers can be used again


class NoImage(Exception):
    """No image can be had to build on."""


def choose(engine: Engine) -> str:
    """The image to build on.

    Raises:
        NoImage: the registry is out of reach, and nothing can be made here.
    """
    told = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert told is not None
    if _have(engine, told[1]) or commands.succeeds(
        (engine.docker, "pull", "--quiet", told[1]), engine.environment
    ):
        return told[1]
    if not _have(engine, _MADE):
        _make(engine)
    return _MADE


def _have(engine: Engine, image: str) -> bool:
    return commands.succeeds((engine.docker, "image", "inspect", image), engine.environment)


def _make(engine: Engine) -> None:
    if os.geteuid() != 0 or not commands.find("debootstrap"):
        raise NoImage("the registry is out of reach, and only root with debootstrap makes an image")
    with tempfile.TemporaryDirectory(prefix="triptych-compose-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        options = ("--variant=minbase", f"--include={_PACKAGES}")
        try:
            commands.run(("debootstrap", *options, _SUITE, root), engine.environment)
        except CommandFailed as error:
            raise NoImage(f"the registry is out of reach, and {error}") from error
        changes = _certify(root)
        _import(engine, root, changes)


def _certify(root: Path) -> list[str]:
    """Have the image trust what this machine was told to trust; return what to set there."""
    told = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if not told:
        return []
    place = root / _CERTIFICATES.relative_to("/")
    place.write_bytes(Path(told).read_bytes())
    return ["--change", f"ENV PIP_CERT={_CERTIFICATES}"]


def _import(engine: Engine, root: Path, changes: list[str]) -> None:
    left_out = [f"--exclude={path}/*" for path in _UNUSED]
    with subprocess.Popen(
        ["tar", "--create", "--directory", root, *left_out, "."], stdout=subprocess.PIPE
    ) as packing:
        subprocess.run(
            [engine.docker, "import", *changes, "-", _MADE],
            env=engine.environment,
            stdin=packing.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )


@contextmanager
def wheels() -> Iterator[str]:
    """Serve the folders where this machine's pip looks for wheels; yield pip's arguments for it."""
    with ExitStack() as serving:
        addresses = [
            serving.enter_context(_served(folder))
            for folder in _pip_setting("find-links").split()
            if Path(folder).is_dir()
        ]
        yield " ".join(f"--find-links {address}" for address in addresses)


def _pip_setting(name: str) -> str:
    """What pip is told here, by its configuration or a variable."""
    listed = commands.run((sys.executable, "-m", "pip", "config", "list"))
    found = re.findall(rf"^(?:global|:env:)\.{name}='(.*)'$", listed, re.MULTILINE)
    return str(found[-1]) if found else ""


@contextmanager
def _served(folder: str) -> Iterator[str]:
    server = _bind(functools.partial(_Silent, directory=folder))
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _bind(handler: functools.partial[_Silent]) -> ThreadingHTTPServer:
    wanted, other = _PORTS
    try:
        return ThreadingHTTPServer(("127.0.0.1", wanted), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", other), handler)


class _Silent(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""
