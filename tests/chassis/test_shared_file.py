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

import numpy as np
import pytest

from chassis import shared_file
from chassis.errors import StartError
from chassis.shared_file import HEADER_BYTES, PeerFiles, SharedFile, sweep
from protos import memory_pb2
from protos.memory_pb2 import Span

PAYLOAD = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SharedFile]:
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    yield file
    file.close()


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[PeerFiles]:
    peers = PeerFiles(tmp_path)
    yield peers
    peers.close()


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


def test_a_peers_close_leaves_the_file_to_its_owner(
    file: SharedFile, peers: PeerFiles, tmp_path: Path
) -> None:
    before = open_descriptors()
    assert file.proven_by(peers.prove(file.describe()))
    peers.close()
    assert (tmp_path / file.name).exists()
    assert open_descriptors() == before


def test_who_reads_the_nonce_has_proven_to_see_the_file(file: SharedFile, peers: PeerFiles) -> None:
    shared = file.describe()
    assert shared == memory_pb2.SharedFile(name=file.name, bytes=HEADER_BYTES + PAYLOAD)
    proof = peers.prove(shared)
    assert proof.nonce == file.nonce
    assert file.proven_by(proof)
    assert file.proven_by(peers.prove(shared))  # and again, for a link that came back


@pytest.mark.parametrize("nonce", [b"", b"\0" * 16, b"x" * 15])
def test_any_other_answer_proves_nothing(file: SharedFile, nonce: bytes) -> None:
    assert not file.proven_by(memory_pb2.SharedProof(nonce=nonce))


def test_the_nonce_of_another_file_proves_nothing(
    file: SharedFile, peers: PeerFiles, tmp_path: Path
) -> None:
    other = SharedFile.create("ring", PAYLOAD, tmp_path)
    assert not file.proven_by(peers.prove(other.describe()))
    other.close()


def test_who_sees_another_folder_answers_with_an_empty_proof(
    file: SharedFile, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert PeerFiles(elsewhere).prove(file.describe()) == memory_pb2.SharedProof()


WRONG_NAMES = [
    "",
    "secret",
    "../secret",
    "triptych-ring-0123456789abcdef/../secret",
    "../triptych-ring-0123456789abcdef",
    "triptych-ring-0123456789abcde",
    "triptych-ring-0123456789ABCDEF",
    "triptych-ring-0123456789abcdef\n",
    "triptych-ring-0123456789abcdef\0",
    "triptych-0123456789abcdef",
]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_is_not_one_of_ours_is_never_opened(
    file: SharedFile, tmp_path: Path, name: str
) -> None:
    # It would pass for a file of ours but for its name.
    (tmp_path / "secret").write_bytes(bytes(file.view))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ValueError, match="does not name a shared file"):
        SharedFile.open(name, folder)
    assert PeerFiles(folder).prove(memory_pb2.SharedFile(name=name)).nonce == b""


NAME = "triptych-ring-0123456789abcdef"


def test_a_link_under_our_name_is_not_followed(
    file: SharedFile, peers: PeerFiles, tmp_path: Path
) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / file.name)
    with pytest.raises(OSError, match="symbolic links"):
        SharedFile.open(NAME, tmp_path)
    assert peers.prove(memory_pb2.SharedFile(name=NAME)).nonce == b""


@pytest.mark.parametrize("content", [b"", b"TRIPTYC", b"SOMETHING" * 20])
def test_a_file_under_our_name_that_is_not_ours_is_refused(
    peers: PeerFiles, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / NAME).write_bytes(content)
    before = open_descriptors()
    with pytest.raises(ValueError, match=r"empty file|not a shared file of ours"):
        SharedFile.open(NAME, tmp_path)
    assert peers.prove(memory_pb2.SharedFile(name=NAME)).nonce == b""
    assert open_descriptors() == before


def test_a_reader_sees_what_the_owner_writes_and_cannot_write(
    file: SharedFile, peers: PeerFiles
) -> None:
    peers.prove(file.describe())
    view = peers.view(Span(name=file.name, offset=HEADER_BYTES, length=4))
    file.view[HEADER_BYTES : HEADER_BYTES + 4] = b"ids!"
    assert view == b"ids!"
    assert view.readonly


def test_a_writer_writes_where_the_owner_reads(file: SharedFile, tmp_path: Path) -> None:
    writers = PeerFiles(tmp_path, writable=True)
    writers.prove(file.describe())
    writers.view(Span(name=file.name, offset=HEADER_BYTES, length=4))[:] = b"ids!"
    assert file.view[HEADER_BYTES : HEADER_BYTES + 4] == b"ids!"
    writers.close()


@pytest.mark.parametrize(
    ("offset", "length"), [(HEADER_BYTES, 0), (HEADER_BYTES, PAYLOAD), (HEADER_BYTES + PAYLOAD, 0)]
)
def test_a_span_up_to_the_end_of_its_file_can_be_viewed(
    file: SharedFile, peers: PeerFiles, offset: int, length: int
) -> None:
    peers.prove(file.describe())
    assert len(peers.view(Span(name=file.name, offset=offset, length=length))) == length


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 8),
        (HEADER_BYTES - 1, 2),
        (HEADER_BYTES, PAYLOAD + 1),
        (HEADER_BYTES + PAYLOAD, 1),
        (2**64 - 1, 2**64 - 1),
        (HEADER_BYTES, 2**64 - HEADER_BYTES),
    ],
)
def test_a_span_outside_its_file_is_refused(
    file: SharedFile, peers: PeerFiles, offset: int, length: int
) -> None:
    peers.prove(file.describe())
    with pytest.raises(ValueError, match="lies outside"):
        peers.view(Span(name=file.name, offset=offset, length=length))


def test_only_a_proven_file_can_be_viewed_and_only_until_dropped(
    file: SharedFile, peers: PeerFiles
) -> None:
    span = Span(name=file.name, offset=HEADER_BYTES, length=1)
    with pytest.raises(KeyError):
        peers.view(span)
    peers.prove(file.describe())
    peers.view(span)
    peers.drop(file.name)
    peers.drop(file.name)
    with pytest.raises(KeyError):
        peers.view(span)


def test_a_view_outlives_its_file(tmp_path: Path) -> None:
    file = SharedFile.create("ring", PAYLOAD, tmp_path)
    peers = PeerFiles(tmp_path)
    peers.prove(file.describe())
    file.view[HEADER_BYTES] = 7
    span = Span(name=file.name, offset=HEADER_BYTES, length=1)
    array = np.frombuffer(peers.view(span), np.uint8)
    peers.close()
    file.close()
    assert array.tolist() == [7]


OWN = """
import sys
from pathlib import Path
from chassis.shared_file import SharedFile

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
