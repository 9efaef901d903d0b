"""A peer uses a file only after it has proven that it sees it, and only inside its bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chassis.memory.shared_file import HEADER_BYTES, PeerFiles, SharedFile
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


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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


def test_a_file_that_its_owner_removed_is_unmapped_when_another_comes(tmp_path: Path) -> None:
    peers = PeerFiles(tmp_path)
    counts = []
    for _ in range(3):
        file = SharedFile.create("arena", PAYLOAD, tmp_path)
        peers.prove(file.describe())
        file.close()
        counts.append(open_descriptors())
    assert counts == counts[:1] * 3
    peers.close()


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
