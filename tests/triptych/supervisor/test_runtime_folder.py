"""The folder of a deployment's sockets, and those of deployments that were killed."""

import os
import signal
import subprocess
import sys

import pytest

from chassis.errors import StartError
from triptych.supervisor.runtime_folder import runtime_folder

HOLD = """
import sys, signal, pathlib
from triptych.supervisor.runtime_folder import runtime_folder
with runtime_folder(pathlib.Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    signal.pause()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has a folder in `tmp_path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        yield process, tmp_path / os.path.basename(process.stdout.readline().decode().strip())
        process.kill()


def test_is_private_and_gone_afterwards(tmp_path):
    with runtime_folder(tmp_path) as folder:
        (folder / "model.sock").touch()
        assert folder.stat().st_mode & 0o777 == 0o700

    assert list(tmp_path.iterdir()) == []


def test_a_live_owners_folder_is_left_alone(tmp_path, holder):
    _, theirs = holder

    with runtime_folder(tmp_path):
        assert theirs.is_dir()


def test_a_killed_owners_folder_is_removed_by_the_next_start(tmp_path, holder):
    process, theirs = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert theirs.is_dir()

    with runtime_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_without_our_lock_is_not_ours(tmp_path):
    (tmp_path / "triptych-notes").mkdir()

    with runtime_folder(tmp_path):
        pass

    assert (tmp_path / "triptych-notes").is_dir()


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StartError, match="nowhere"), runtime_folder(tmp_path / "nowhere"):
        pass


def test_a_removal_cut_short_leaves_the_lock_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with runtime_folder(tmp_path) as folder:
        (folder / "model.sock").touch()
    monkeypatch.undo()

    assert [path.name for path in folder.iterdir()] == ["lock"]
    with runtime_folder(tmp_path):
        assert not folder.exists()
