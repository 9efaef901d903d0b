"""What is rung is heard whole, in order, or not taken; the pipe is its owner's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.memory.doorbell import Doorbell, Listener
from chassis.memory.shared_file import SharedFile, sweep

RECORD_BYTES = 24


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Doorbell]:
    bell = Doorbell.create(tmp_path)
    yield bell
    bell.close()


@pytest.fixture
def listener(bell: Doorbell, tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(bell.name, RECORD_BYTES, tmp_path)
    yield listener
    listener.close()


def record(number: int) -> bytes:
    return number.to_bytes(RECORD_BYTES, "little")


def test_records_are_heard_in_order(bell: Doorbell, listener: Listener) -> None:
    assert listener.hear() == b""
    assert bell.ring(record(1))
    assert bell.ring(record(2))
    assert listener.hear() == record(1) + record(2)
    assert listener.hear() == b""


def test_what_was_rung_before_anyone_listened_is_heard(bell: Doorbell, tmp_path: Path) -> None:
    bell.ring(record(7))
    listener = Listener(bell.name, RECORD_BYTES, tmp_path)
    assert listener.hear() == record(7)
    listener.close()


def test_a_full_bell_takes_no_part_of_a_record(bell: Doorbell, listener: Listener) -> None:
    rung = 0
    while bell.ring(record(rung)):
        rung += 1
    assert rung > 100

    heard = b""
    while more := listener.hear():
        assert len(more) % RECORD_BYTES == 0
        heard += more
    assert heard == b"".join(map(record, range(rung)))
    assert bell.ring(record(0))


def test_a_listener_that_left_breaks_nothing(bell: Doorbell, tmp_path: Path) -> None:
    Listener(bell.name, RECORD_BYTES, tmp_path).close()
    assert bell.ring(record(1))


def test_the_end_of_its_owner_is_heard(tmp_path: Path) -> None:
    bell = Doorbell.create(tmp_path)
    listener = Listener(bell.name, RECORD_BYTES, tmp_path)
    bell.ring(record(1))
    bell.close()
    assert listener.hear() == record(1)
    assert listener.hear() is None
    listener.close()
    assert not list(tmp_path.iterdir())


def test_only_a_dead_owners_pipe_is_swept(bell: Doorbell, tmp_path: Path) -> None:
    left_behind = tmp_path / f"triptych-bell-{'0' * 16}"
    os.mkfifo(left_behind)
    assert sweep(tmp_path) == [left_behind.name]
    assert (tmp_path / bell.name).exists()


def test_only_a_pipe_of_ours_is_a_bell(tmp_path: Path) -> None:
    file = SharedFile.create("ring", 64, tmp_path)
    with pytest.raises(ValueError, match="not a bell"):
        Listener(file.name, RECORD_BYTES, tmp_path)
    with pytest.raises(ValueError, match="does not name"):
        Listener("../elsewhere", RECORD_BYTES, tmp_path)
    with pytest.raises(FileNotFoundError):
        Listener(f"triptych-bell-{'1' * 16}", RECORD_BYTES, tmp_path)
    file.close()
