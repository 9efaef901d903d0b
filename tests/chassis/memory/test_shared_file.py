"""A shared file has one owner, is reserved, proven before it is used, and removed when nobody's."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chassis.errors import StartError
from chassis.memory import shared_file
from chassis.memory.shared_file import HEADER_BYTES, PeerFiles, SharedFile, sweep
from protos import memory_pb2
from protos.memory_pb2 import Span

PAYLOAD = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SharedFile]:
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    yield file
    file.close()


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A memory-backed folder of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip(f"may not mount a small tmpfs: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_only_its_owner_and_peers_of_the_same_user_may_use_it(
    file: SharedFile, tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        other = SharedFile.create("ring", PAYLOAD, tmp_path)
    finally:
        os.umask(old)
    for made in (file, other):
        assert stat.S_IMODE((tmp_path / made.name).stat().st_mode) == 0o600
    other.close()


def test_its_space_is_reserved_when_it_is_made(file: SharedFile, tmp_path: Path) -> None:
    status = (tmp_path / file.name).stat()
    assert status.st_size == HEADER_BYTES + PAYLOAD == len(file.view)
    assert status.st_blocks * 512 >= status.st_size


def test_it_is_made_where_memory_is_shared() -> None:
    made = SharedFile.create("ring", PAYLOAD)
    path = Path("/dev/shm") / made.name
    assert path.exists()
    made.close()
    assert not path.exists()


def test_its_name_tells_what_it_is_for_and_is_never_used_twice(
    file: SharedFile, tmp_path: Path
) -> None:
    other = SharedFile.create("ring", PAYLOAD, tmp_path)
    assert file.name.startswith("triptych-ring-")
    assert other.name != file.name
    assert other.nonce != file.nonce
    assert len(file.nonce) == 16
    other.close()


def test_a_folder_too_small_is_told_with_both_sizes(small_folder: Path) -> None:
    before = open_descriptors()
    with pytest.raises(StartError, match=r"the arena: 2 MiB wanted, 1 MiB free in .*--shm-size"):
        # 2 MiB with its header, to the byte.
        SharedFile.create("arena", (2 << 20) - HEADER_BYTES, small_folder)
    assert list(small_folder.iterdir()) == []
    assert open_descriptors() == before


def test_sizes_are_told_such_that_what_is_wanted_is_more_than_is_free(small_folder: Path) -> None:
    with pytest.raises(StartError, match="the arena: 2 MiB wanted, 1 MiB free"):
        SharedFile.create("arena", 1 << 20, small_folder)


def test_writing_all_of_a_file_that_just_fits_is_no_fault(small_folder: Path) -> None:
    file = SharedFile.create("arena", (1 << 20) - HEADER_BYTES, small_folder)
    file.view[HEADER_BYTES:] = b"x" * ((1 << 20) - HEADER_BYTES)
    assert file.view[-1] == ord("x")
    file.close()


def test_a_reservation_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    before = open_descriptors()
    with pytest.raises(StartError, match="too little shared memory for the ring: 1 MiB wanted"):
        SharedFile.create("ring", PAYLOAD, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert open_descriptors() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="absent"):
        SharedFile.create("ring", PAYLOAD, tmp_path / "absent")


def test_the_owners_close_removes_the_file_and_all_it_held(tmp_path: Path) -> None:
    before = open_descriptors()
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    file.close()
    assert list(tmp_path.iterdir()) == []
    assert open_descriptors() == before


def test_closing_twice_closes_nobody_elses_descriptor(tmp_path: Path) -> None:
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    file.close()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    file.close()
    for descriptor in others:
        os.close(descriptor)


OWN = """
import sys
from pathlib import Path
from chassis.memory.shared_file import SharedFile

file = SharedFile.create("ring", 4096, Path(sys.argv[1]))
print(file.name, flush=True)
sys.stdin.read()
"""


@contextmanager
def owner_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that owns a file in `folder`, and the file's name."""
    with subprocess.Popen(
        [sys.executable, "-c", OWN, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_sweep_removes_what_a_killed_process_owned_and_nothing_else(
    file: SharedFile, tmp_path: Path
) -> None:
    with owner_process(tmp_path) as (process, name):
        # What is not named like a file of ours is not ours to remove.
        (tmp_path / "triptych-notes").touch()
        assert sweep(tmp_path) == []
        process.kill()
        process.wait()
        assert sweep(tmp_path) == [name]
        assert sweep(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "triptych-notes"}


def test_a_peer_that_maps_a_dead_owners_file_does_not_keep_it(tmp_path: Path) -> None:
    peers = PeerFiles(tmp_path)
    with owner_process(tmp_path) as (process, name):
        assert peers.prove(memory_pb2.SharedFile(name=name)).nonce
        process.kill()
        process.wait()
        assert sweep(tmp_path) == [name]
    # And what it mapped can still be read.
    assert bytes(peers.view(Span(name=name, offset=HEADER_BYTES, length=1))) == b"\0"
    peers.close()


def test_a_file_is_never_swept_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []
    lock = fcntl.flock

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            monkeypatch.setattr(shared_file.fcntl, "flock", lock)
            swept.extend(sweep(tmp_path))
        lock(descriptor, operation)

    # Another service starts, and sweeps, between the new file's first two steps.
    monkeypatch.setattr(shared_file.fcntl, "flock", sweep_first)
    before = open_descriptors()
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    assert len(swept) == 1
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert sweep(tmp_path) == []
    file.close()
    assert open_descriptors() == before
