"""Files in shared memory: made by one owner, mapped by its peers.

A file's pages are reserved when it is made, because a write past a full /dev/shm is a SIGBUS and
not an error; it is never truncated while mapped. Its owner holds a lock on it for life, by which
the next start tells a live owner's file from one left behind. A peer proves that it sees the file
by reading the nonce in its header.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chassis.errors import StartError
from protos import memory_pb2

FOLDER = Path("/dev/shm")
HEADER_BYTES = 64
_MAGIC = b"TRIPTYCH"
_NONCE = slice(8, 24)
_NAME = re.compile(r"triptych-[a-z]+-[0-9a-f]{16}")


class SharedFile:
    """A mapped file; offsets count from its start, the first `HEADER_BYTES` are not for use."""

    def __init__(self, path: Path, descriptor: int, mapping: mmap.mmap, *, owned: bool) -> None:
        self._path = path
        self._descriptor = descriptor
        self._mapping = mapping
        self._owned = owned
        self._closed = False
        self.view = memoryview(mapping)

    @classmethod
    def create(cls, kind: str, payload_bytes: int, folder: Path = FOLDER) -> SharedFile:
        """Make, reserve and lock a new file with room for `payload_bytes` after its header.

        Args:
            kind: what it is for, in its name: lower-case letters.
            payload_bytes: room after the header.
            folder: a memory-backed folder.

        Raises:
            StartError: the folder cannot hold it.
        """
        size = HEADER_BYTES + payload_bytes
        path, descriptor = make_locked(kind, folder, _make_file)
        try:
            os.posix_fallocate(descriptor, 0, size)
            mapping = mmap.mmap(descriptor, size)
        except OSError as error:
            path.unlink()
            os.close(descriptor)
            free = shutil.disk_usage(folder).free
            raise StartError(
                f"too little shared memory for the {kind}: {-(-size >> 20)} MiB wanted, "
                f"{free >> 20} MiB free in {folder}; enlarge it (docker: --shm-size) or lower "
                f"the {kind}'s size"
            ) from error
        mapping[: len(_MAGIC)] = _MAGIC
        mapping[_NONCE] = secrets.token_bytes(16)
        return cls(path, descriptor, mapping, owned=True)

    @classmethod
    def open(cls, name: str, folder: Path = FOLDER, *, writable: bool = False) -> SharedFile:
        """Map a peer's file.

        Raises:
            OSError: it cannot be seen or may not be used so.
            ValueError: it is not one of ours.
        """
        if not is_shared_name(name):
            raise ValueError(f"{name!r} does not name a shared file")
        path = folder / name
        flags = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_NOFOLLOW)
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            mapping = mmap.mmap(descriptor, 0, access=access)
        except (OSError, ValueError):
            os.close(descriptor)
            raise
        if mapping[: len(_MAGIC)] != _MAGIC:
            mapping.close()
            os.close(descriptor)
            raise ValueError(f"{name!r} is not a shared file of ours")
        return cls(path, descriptor, mapping, owned=False)

    @property
    def name(self) -> str:
        """File name, without its folder."""
        return self._path.name

    @property
    def nonce(self) -> bytes:
        """16 random bytes that only those who see the file know."""
        return bytes(self.view[_NONCE])

    def describe(self) -> memory_pb2.SharedFile:
        """The message that asks a peer to prove that it sees this file."""
        return memory_pb2.SharedFile(name=self.name, bytes=len(self.view))

    def proven_by(self, proof: memory_pb2.SharedProof) -> bool:
        """Tell whether a peer's answer shows that it sees this file."""
        return secrets.compare_digest(proof.nonce, self.nonce)

    def close(self) -> None:
        """Unmap the file; its owner also removes it. Views still held keep the pages alive."""
        if self._closed:
            return
        self._closed = True
        if self._owned:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        # A view held elsewhere keeps the mapping until it is collected, which is harmless.
        with suppress(BufferError):
            self.view.release()
            self._mapping.close()


def is_shared_name(name: str) -> bool:
    """Tell whether `name` is one that `make_locked` gives."""
    return _NAME.fullmatch(name) is not None


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def make_locked(kind: str, folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a file that no sweep takes for a dead owner's; return its path and descriptor.

    Args:
        kind: what it is for, in its name: lower-case letters.
        folder: where.
        make: makes it and opens it.

    Raises:
        StartError: the folder cannot hold it.
    """
    while True:
        path = folder / f"triptych-{kind}-{secrets.token_hex(8)}"
        try:
            descriptor = make(path)
        except OSError as error:
            raise StartError(f"cannot make {path}: {error.strerror}; is {folder} there?") from error
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        # A process that started meanwhile swept the file before it was locked.
        os.close(descriptor)


class PeerFiles:
    """The files of peers that this process has mapped, by name."""

    def __init__(self, folder: Path = FOLDER, *, writable: bool = False) -> None:
        self._folder = folder
        self._writable = writable
        self._files: dict[str, SharedFile] = {}

    def prove(self, shared: memory_pb2.SharedFile) -> memory_pb2.SharedProof:
        """Map a peer's file and answer with its nonce; an empty proof where that fails."""
        try:
            if shared.name not in self._files:
                self._drop_removed()
                file = SharedFile.open(shared.name, self._folder, writable=self._writable)
                self._files[shared.name] = file
            file = self._files[shared.name]
        except (OSError, ValueError):
            return memory_pb2.SharedProof()
        return memory_pb2.SharedProof(nonce=file.nonce)

    def view(self, span: memory_pb2.Span) -> memoryview:
        """The bytes that `span` names.

        Raises:
            KeyError: its file was never proven, or was dropped.
            ValueError: it reaches outside its file.
        """
        whole = self._files[span.name].view
        end = span.offset + span.length
        if span.offset < HEADER_BYTES or end > len(whole):
            raise ValueError(f"span {span.offset}+{span.length} lies outside {span.name}")
        return whole[span.offset : end]

    def drop(self, name: str) -> None:
        """Unmap a file that its owner no longer uses."""
        file = self._files.pop(name, None)
        if file is not None:
            file.close()

    def _drop_removed(self) -> None:
        """Unmap the files that their owners removed: mapped, they would still take up memory."""
        for name in [name for name in self._files if not (self._folder / name).exists()]:
            self.drop(name)

    def close(self) -> None:
        """Unmap all."""
        for name in list(self._files):
            self.drop(name)


def sweep(folder: Path = FOLDER) -> list[str]:
    """Remove the files whose owners are gone; return their names."""
    removed = []
    for path in folder.glob("triptych-*"):
        if not is_shared_name(path.name):
            continue
        with _locked(path) as ours:
            if ours:
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Try to take the owner's lock for the block; yield whether it was free."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
