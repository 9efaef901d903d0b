"""How the process of a service starts and ends, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from chassis import healthcheck

WAIT_S = 20.0
TINY_SERVICE = Path(__file__).parent / "tiny_service.py"
ROOT = Path(__file__).parents[3]


class Process:
    """A tiny service as a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stderr is not None
        self._stderr = process.stderr
        self.pid = process.pid

    def address(self) -> str:
        """Where it listens, once it does."""
        for line in self._stderr:
            record = json.loads(line)
            if record["event"] == "listening":
                return str(record["address"])
        raise AssertionError("it ended instead")

    def send(self, signal_number: int) -> None:
        self._process.send_signal(signal_number)

    def end(self) -> tuple[int, list[str]]:
        """Its exit code, and what else it said but for the log."""
        code = self._process.wait(WAIT_S)
        return code, [line.rstrip("\n") for line in self._stderr if not line.startswith("{")]


def environment_of(role: str, settings: Mapping[str, str]) -> dict[str, str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("TRIPTYCH_")
    }
    given = {"listen": "127.0.0.1:0", "log_format": "json"} | settings
    environment |= {f"TRIPTYCH_ROUTER_{key.upper()}": value for key, value in given.items()}
    return environment | {"ROLE": role, "PYTHONPATH": str(ROOT)}


@contextmanager
def tiny_service(role: str = "serve", **settings: str) -> Iterator[Process]:
    environment = environment_of(role, settings)
    with subprocess.Popen(
        [sys.executable, str(TINY_SERVICE)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_told_to_stop_ends_well(tmp_path: Path, signal_number: int) -> None:
    with tiny_service(listen=f"unix:{tmp_path / 'a.sock'}") as process:
        address = process.address()
        assert healthcheck.ask(address) == "SERVING"
        process.send(signal_number)
        assert process.end() == (0, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("role", "settings", "line"),
    [
        ("refuse", {}, "no tokenizer.json in the checkpoint; save one there"),
        ("picky", {"grace_s": "3"}, "TRIPTYCH_ROUTER_GRACE_S: 3.0 does not please"),
        ("serve", {"grace": "3"}, "unknown setting(s): TRIPTYCH_ROUTER_GRACE"),
        ("serve", {"listen": "nowhere"},
         "address 'nowhere': expected HOST:PORT, such as 127.0.0.1:50051, or unix:PATH"),
        ("serve", {"parent_pid": "1"}, "parent process 1 has ended; not starting without it"),
    ],
)  # fmt: skip
def test_a_process_that_cannot_start_says_why_in_one_line(
    role: str, settings: dict[str, str], line: str
) -> None:
    with tiny_service(role, **settings) as process:
        assert process.end() == (1, [f"triptych router: {line}"])


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{folder}/a.sock"])
def test_an_address_has_one_live_server(tmp_path: Path, listen: str) -> None:
    with tiny_service(listen=listen.format(folder=tmp_path)) as first:
        address = first.address()
        with tiny_service(listen=address) as second:
            code, said = second.end()
        assert code == 1
        (line,) = said
        assert line.startswith(f"triptych router: cannot listen on {address}: ")
        assert healthcheck.ask(address) == "SERVING"


def test_a_process_replaces_one_that_was_killed(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'a.sock'}"
    with tiny_service(listen=address) as first:
        first.address()
        first.send(signal.SIGKILL)
        first.end()
    assert (tmp_path / "a.sock").exists()
    with tiny_service(listen=address) as second:
        assert second.address() == address
        assert healthcheck.ask(address) == "SERVING"


def make_fail(address: str) -> None:
    with grpc.insecure_channel(address) as channel, suppress(grpc.RpcError):
        channel.unary_unary("/Test/Fail")(b"", timeout=WAIT_S)


def test_a_process_ends_when_its_service_cannot_go_on() -> None:
    with tiny_service("fail", grace_s=str(3 * WAIT_S)) as process:
        make_fail(process.address())
        assert process.end() == (1, ["triptych router: the engine stopped; see above"])


def test_a_bug_that_ends_a_service_is_told_with_its_traceback() -> None:
    with tiny_service("break") as process:
        make_fail(process.address())
        code, said = process.end()
    assert code == 1
    assert said[0].startswith("Traceback")
    assert said[-1] == "KeyError: 'slot'"


def test_a_failure_while_it_closes_is_not_lost() -> None:
    with tiny_service("fail-late") as process:
        process.address()
        process.send(signal.SIGTERM)
        assert process.end() == (1, ["triptych router: the engine did not end; see above"])


def unread() -> int:
    """A pipe that is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    HELD.append(reading)
    return writing


def abandoned() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


HELD: list[int] = []


@pytest.fixture
def held() -> Iterator[None]:
    yield
    while HELD:
        os.close(HELD.pop())


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("make", [unread, abandoned, full, None])
@pytest.mark.parametrize("role", ["serve", "fail", "break", "refuse"])
def test_a_service_lives_and_ends_as_ever_whatever_becomes_of_its_log(
    tmp_path: Path, make: Callable[[], int] | None, role: str
) -> None:
    address = f"unix:{tmp_path / 'a.sock'}"
    command = [sys.executable, str(TINY_SERVICE)]
    if make is None:
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "-", *command]
    stream = None if make is None else make()
    environment = environment_of(role, {"listen": address, "log_level": "debug"})
    with subprocess.Popen(command, env=environment, stdout=stream, stderr=stream) as process:
        if stream is not None:
            os.close(stream)
        try:
            if role != "refuse":
                healthcheck.await_other("", address, WAIT_S)
                for _ in range(3):
                    assert healthcheck.ask(address) == "SERVING"
            if role == "serve":
                process.send_signal(signal.SIGTERM)
            elif role != "refuse":
                make_fail(address)
            assert process.wait(WAIT_S) == (0 if role == "serve" else 1)
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_hangup_ends_a_service_in_order_unless_it_was_started_to_ignore_it() -> None:
    with tiny_service() as heeding:
        heeding.address()
        heeding.send(signal.SIGHUP)
        assert heeding.end() == (0, [])

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with tiny_service() as immune:
            address = immune.address()
            immune.send(signal.SIGHUP)
            assert healthcheck.ask(address) == "SERVING"
            immune.send(signal.SIGTERM)
            assert immune.end() == (0, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_client_makes_a_service_end_with_cannot_forge_a_line_of_its_log() -> None:
    with tiny_service("forge") as process:
        make_fail(process.address())
        code, said = process.end()
    assert code == 1
    assert said[-1] == r"ValueError: x\n12:00:00.000 error router [r-2] paid\x1b[2J"


NOISY = """
import asyncio
from contextlib import suppress
from chassis.serving import server

async def fail_in_the_c_library():
    with suppress(RuntimeError):
        server.aio.server().add_insecure_port("256.1.1.1:70000")

asyncio.run(fail_in_the_c_library())
"""


@pytest.mark.parametrize(("verbosity", "silent"), [(None, True), ("ERROR", False)])
def test_the_c_library_of_grpc_is_silent_unless_the_operator_asks(
    verbosity: str | None, silent: bool
) -> None:
    asked = {} if verbosity is None else {"GRPC_VERBOSITY": verbosity}
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    said = subprocess.run(
        [sys.executable, "-c", NOISY],
        env=environment | asked,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert (said == "") == silent
