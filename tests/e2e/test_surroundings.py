"""A deployment is the same whatever folder, log, terminal or process tree it is started in."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.deployments import local

import triptych
from triptych import deployment_status

WAIT_S = 60
OPTIONS = ("--dtype", "float32", "--name", "tiny", "--kv-tokens", "4096", "--metrics-listen", "off")
OURS = ("router", "tokenizer_svc", "model_svc", "detokenizer_svc", "kernels", "chassis", "protos")
THIRD = ("grpc", "google", "numpy", "torch", "tokenizers", "uvloop", "safetensors", "jinja2")


@contextmanager
def serving(model, *options, before=(), **process):
    """`triptych serve` as an installed command runs it; yields the process and its address."""
    command = [*before, sys.executable, "-P", "-m", "triptych", "serve", "--model", str(model)]
    with subprocess.Popen(
        [*command, *OPTIONS, *options], stdout=subprocess.PIPE, text=True, **process
    ) as started:
        try:
            ready = started.stdout.readline()
            assert ready.startswith("ready on "), ready
            yield started, ready.removeprefix("ready on ").strip()
        finally:
            started.kill()


def answers(address, max_tokens=4):
    with triptych.Client(address) as client:
        options = {"max_tokens": max_tokens, "seed": 7, "ignore_eos": True}
        return client.generate("Once upon", retry_s=WAIT_S, timeout=WAIT_S, **options).text


def descendants(pid):
    return list(local._descendants(pid))


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_it_serves_at_a_socket_from_a_folder_that_shadows_every_module(tiny, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    for name in {*sys.stdlib_module_names, *OURS, *THIRD, "sitecustomize"}:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} is shadowed')")
    log = tmp_path / "log"
    socket = tmp_path / "api.sock"
    with (
        log.open("w") as stderr,
        serving(tiny, "--listen", "unix:../api.sock", cwd=folder, stderr=stderr) as (one, address),
    ):
        assert address == f"unix:{socket}"
        expected = answers(address)
        seen = asyncio.run(deployment_status.collect(address)).services
        assert all(service.ready for service in seen)
        router = next(service.pid for service in seen if service.name == "router")
        os.kill(router, signal.SIGKILL)
        assert answers(address) == expected
        one.send_signal(signal.SIGTERM)
        assert one.wait(WAIT_S) == 0
    assert not socket.exists()
    said = log.read_text()
    assert "is shadowed" not in said
    orderly = said.rpartition("stopping: running requests have up to 5 s to end;")[2]
    assert "Ctrl-C again ends them at once" in orderly
    assert " lost" not in orderly
    assert "warning" not in orderly


def test_a_hard_stop_with_an_unread_log_leaves_nothing_behind(tiny):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)
    try:
        with serving(tiny, "--listen", "127.0.0.1:0", stderr=writing) as (one, address):
            for _ in range(20):
                answers(address, max_tokens=1)
            maps = [Path(f"/proc/{pid}/maps").read_text() for pid in descendants(one.pid)]
            shared = set(re.findall(r"/dev/shm/triptych-\S+", "".join(maps)))
            assert len(shared) >= 2, "the arena and the ring"
            one.send_signal(signal.SIGQUIT)
            assert one.wait(WAIT_S) == 0
    finally:
        os.close(reading)
        os.close(writing)
    assert not [name for name in shared if Path(name).exists()]


def can_be_process_1():
    probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_as_process_1_it_reaps_orphans(tiny):
    if not can_be_process_1():
        pytest.skip("cannot make a namespace of processes here")
    before = ("unshare", "--pid", "--fork", "--mount-proc")
    with serving(tiny, "--listen", "127.0.0.1:0", before=before) as (one, address):
        expected = answers(address)
        first, *_ = descendants(one.pid)
        seen = descendants(one.pid)
        (tokenizer,) = (pid for pid in seen if b"\0tokenizer_svc\0" in command_of(pid))
        workers = descendants(tokenizer)
        assert workers
        os.kill(tokenizer, signal.SIGKILL)
        assert answers(address) == expected
        assert not [pid for pid in (tokenizer, *workers) if state_of(pid) == "Z"]
        os.kill(first, signal.SIGTERM)
        assert one.wait(WAIT_S) == 0


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_closed_streams_and_a_hangup_do_not_end_it(tiny, tmp_path):
    address = f"unix:{tmp_path / 'api.sock'}"
    command = [sys.executable, "-P", "-m", "triptych", "serve", "--model", str(tiny), *OPTIONS]
    command += ["--listen", address]
    closing = ["nohup", "sh", "-c", 'exec "$@" 0<&- >&- 2>&-', "-", *command]
    with subprocess.Popen(closing, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as one:
        try:
            assert answers(address)
            one.send_signal(signal.SIGHUP)
            assert answers(address)
            one.send_signal(signal.SIGTERM)
            assert one.wait(WAIT_S) == 0
        finally:
            one.kill()
