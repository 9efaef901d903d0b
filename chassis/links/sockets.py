"""Addresses that a server listens on: checked, taken and given up.

One address has one live server. A unix socket that a killed process left is replaced, and only the
server's own user may connect to it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grpc import aio

from chassis.errors import StartError
from chassis.links.credentials import add_port
from chassis.metrics import split_address

_UNIX = "unix:"
_EXAMPLE = "127.0.0.1:50051, or unix:PATH"
_PATH_BYTES = 107  # sockaddr_un holds 108 with its final zero


def bind(server: aio.Server, address: str) -> str:
    """Bind `server` to `unix:PATH` or `HOST:PORT`; return the address with the port it got.

    Raises:
        StartError: the address is malformed, in use, or not of this machine.
    """
    if address.startswith(_UNIX):
        with _alone_at(_path(address)):
            _add(server, address)
        return address
    _, port = split_address(address, example=_EXAMPLE)
    _check_bindable(address, port)  # gRPC would log the reason by itself
    return f"{address.rpartition(':')[0]}:{_add(server, address)}"


def refuse_unusable(address: str) -> None:
    """Refuse an address that no server could ever be bound to, or a socket that is served.

    Raises:
        StartError: it is malformed, not of this machine, or the path of a socket cannot be had.
    """
    if address.startswith(_UNIX):
        with _alone_at(_path(address)):
            return
    _check_bindable(address, 0)


def _check_bindable(address: str, port: int) -> None:
    host, _ = split_address(address, example=_EXAMPLE)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise _refusal(address, error) from error


def release(address: str) -> None:
    """Remove the socket of a server that was bound to `address` and has stopped."""
    if address.startswith(_UNIX):
        _path(address).unlink(missing_ok=True)


def release_dead(address: str) -> None:
    """Remove the socket at `address`, if it is one, unless a process serves it."""
    if address.startswith(_UNIX):
        with suppress(OSError):
            _remove_stale(_path(address))


def _add(server: aio.Server, address: str) -> int:
    try:
        port = add_port(server, address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}; choose another address") from error
    return port


def _path(address: str) -> Path:
    return Path(address.removeprefix(_UNIX))


def _refusal(address: str, error: OSError) -> StartError:
    remedy = "choose another path"
    if not address.startswith(_UNIX):
        remedy = "choose another address, or port 0 for a free one"
    reason = (error.strerror or str(error)).partition(" (while ")[0]  # which `socket` adds
    if error.errno is not None and error.errno > 0:  # below zero where a name cannot be resolved
        reason = os.strerror(error.errno)
    return StartError(f"cannot listen on {address}: {reason}; {remedy}")


@contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Let one process at a time bind in the folder, and its user alone connect.

    Raises:
        StartError: the path cannot be had.
    """
    address = f"{_UNIX}{path}"
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise StartError(f"cannot listen on {address}: its path has more than {_PATH_BYTES} bytes")
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refusal(address, error) from error
    # Set before the socket is there, because connecting is possible from then on.
    mask = os.umask(0o177)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not os.access(path.parent, os.W_OK):
            raise OSError(f"no right to write to {path.parent}")
        _remove_stale(path)
        yield
    except OSError as error:
        raise _refusal(address, error) from error
    finally:
        os.umask(mask)
        os.close(folder)


def _remove_stale(path: Path) -> None:
    """Remove the socket at `path` if no process serves it.

    Raises:
        OSError: a process does, or it is no socket.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        # A live server whose queue is full would have us wait.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not path.is_socket():
                raise OSError("it is there and no socket") from None
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise OSError("another process serves it")
