"""What cannot start says why in one line, with the remedy, and leaves nothing running."""

import json
import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import checkpoints
from support.deployments import local


def fails(model, *options, env=None):
    """Run `triptych serve`; return what it said. It must fail, in one line, with no traceback."""
    ended = subprocess.run(
        local.command(model, *options),
        cwd=local.ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode not in (0, None)
    assert "Traceback" not in ended.stderr + ended.stdout
    reasons = [line for line in ended.stderr.splitlines() if line.startswith("triptych: ")]
    assert len(reasons) == 1, ended.stderr
    return reasons[0]


@pytest.fixture
def model(tmp_path):
    return checkpoints.write_checkpoint(tmp_path / "checkpoint", "llama")


def edit_config(model, **changes):
    path = model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def test_a_missing_folder(tmp_path):
    assert "nowhere" in fails(tmp_path / "nowhere")


def test_a_truncated_weights_file(model):
    weights = model / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)

    assert "model.safetensors" in fails(model)


def test_weights_of_a_wrong_type(model):
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    name = "model.norm.weight"
    save_file({**tensors, name: tensors[name].astype(np.int8)}, weights)

    reason = fails(model)

    assert name in reason
    assert "int8" in reason.lower() or "I8" in reason


def test_an_unknown_architecture(model):
    edit_config(model, architectures=["ParrotForCausalLM"])

    reason = fails(model)

    assert "ParrotForCausalLM" in reason
    assert "LlamaForCausalLM" in reason, "it says which it knows"


def test_a_missing_tokenizer(model):
    (model / "tokenizer.json").unlink()

    assert "tokenizer.json" in fails(model)


def test_a_port_in_use(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = fails(model, "--listen", f"127.0.0.1:{port}")

    assert str(port) in reason
    assert "in use" in reason


def test_a_pool_too_small_for_one_request(model):
    reason = fails(model, "--kv-tokens", "8")

    assert "8" in reason
    assert "--kv-tokens" in reason


def test_an_unknown_setting_is_named(model):
    reason = fails(model, env={"TRIPTYCH_ROUTER_MAX_QUEU": "3"})

    assert "TRIPTYCH_ROUTER_MAX_QUEU" in reason


@contextmanager
def small_shared_memory(tmp_path):
    """A namespace of mounts in which /dev/shm holds 1 MiB; needs the right to mount."""
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        pytest.skip(f"cannot mount a small /dev/shm here: {probe.stderr.strip()}")
    yield [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"',
        "-",
    ]


def test_too_little_shared_memory(model, tmp_path, monkeypatch):
    with small_shared_memory(tmp_path) as prefix:
        plain = local.command
        monkeypatch.setattr(local, "command", lambda *a: [*prefix, *plain(*a)])
        reason = fails(model)

    assert "shared memory" in reason
    assert "MiB" in reason


def test_nothing_is_left_running_after_a_failed_start(model):
    fails(model, "--kv-tokens", "8")

    ours = [
        path
        for path in Path("/proc").glob("[0-9]*/environ")
        if _mentions(path, str(model).encode())
    ]
    assert not ours


def _mentions(path, needle):
    try:
        return needle in path.read_bytes()
    except OSError:
        return False
