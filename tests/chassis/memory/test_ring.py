"""What the reader has not acknowledged stays as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chassis.memory.ring import Ring
from chassis.memory.shared_file import HEADER_BYTES, PeerFiles, SharedFile
from protos.memory_pb2 import Span


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    file = SharedFile.create("ring", 256, tmp_path)
    yield Ring(file)
    file.close()


def reserve(ring: Ring, sequence: int, size: int) -> Span:
    span = ring.reserve(sequence, size)
    assert span is not None
    return span


def test_a_peer_reads_what_was_written(ring: Ring, tmp_path: Path) -> None:
    reader = PeerFiles(tmp_path)
    assert ring.file.proven_by(reader.prove(ring.file.describe()))
    span = reserve(ring, 1, 5)
    ring.view(span)[:] = b"frame"
    assert reader.view(span) == b"frame"
    reader.close()


def test_records_follow_each_other_aligned(ring: Ring) -> None:
    offsets = [reserve(ring, i, size).offset for i, size in enumerate((1, 8, 9, 3))]
    assert offsets == [HEADER_BYTES + at for at in (0, 8, 16, 32)]
    assert ring.live_records == 4


def test_all_of_a_ring_can_be_one_record(ring: Ring) -> None:
    assert ring.reserve(1, 257) is None
    reserve(ring, 1, 256)
    assert ring.reserve(2, 1) is None


def test_a_full_ring_has_no_room_until_the_oldest_is_acknowledged(ring: Ring) -> None:
    spans = [reserve(ring, i, 64) for i in range(4)]
    assert ring.reserve(4, 64) is None
    ring.acknowledge(0)
    assert reserve(ring, 4, 64).offset == spans[0].offset
    assert ring.reserve(5, 1) is None


def test_a_record_never_wraps(ring: Ring) -> None:
    reserve(ring, 0, 96)
    reserve(ring, 1, 96)
    ring.acknowledge(0)
    # 64 bytes are free at the end and 96 at the start, but no 100 in one piece.
    assert ring.reserve(2, 100) is None
    assert reserve(ring, 2, 96).offset == HEADER_BYTES


def test_a_record_left_out_changes_nothing(ring: Ring) -> None:
    reserve(ring, 0, 200)
    assert ring.reserve(1, 100) is None
    assert ring.live_records == 1
    assert reserve(ring, 1, 56).offset == HEADER_BYTES + 200


def test_acknowledging_one_acknowledges_those_before_it(ring: Ring) -> None:
    for sequence in (3, 5, 9):
        reserve(ring, sequence, 64)
    ring.acknowledge(5)
    assert ring.live_records == 1
    ring.acknowledge(5)
    assert ring.live_records == 1


def test_a_sequence_that_was_never_written_acknowledges_what_is_below_it(ring: Ring) -> None:
    for sequence in (3, 5, 9):
        reserve(ring, sequence, 64)
    ring.acknowledge(2)
    assert ring.live_records == 3
    ring.acknowledge(8)
    assert ring.live_records == 1


class Records(RuleBasedStateMachine):
    """A writer and a reader in any order, against what each live record was written to be."""

    payload_bytes = 512

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = SharedFile.create("ring", self.payload_bytes, Path(self.folder.name))
        self.ring = Ring(self.file)
        self.live: dict[int, tuple[Span, bytes]] = {}
        self.written: Span | None = None
        self.sequence = 0

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()

    def room(self) -> int:
        """The longest piece that is free behind the newest record or before the oldest."""
        end = len(self.file.view)
        if not self.live or self.written is None:
            return end - HEADER_BYTES
        newest = self.written
        head = newest.offset + -(-newest.length // 8) * 8
        tail = next(iter(self.live.values()))[0].offset
        if newest.offset < tail:
            return tail - head
        return max(end - head, tail - HEADER_BYTES)

    @rule(size=st.integers(1, 200) | st.sampled_from([256, 512, 513]), skipped=st.integers(0, 2))
    def write(self, size: int, skipped: int) -> None:
        self.sequence += 1 + skipped
        room = self.room()
        span = self.ring.reserve(self.sequence, size)
        assert (span is not None) == (-(-size // 8) * 8 <= room)
        if span is None:
            return
        assert (span.name, span.length) == (self.file.name, size)
        assert span.offset >= HEADER_BYTES
        assert span.offset % 8 == 0
        assert span.offset + span.length <= len(self.file.view)
        mark = bytes([self.sequence % 256]) * size
        self.ring.view(span)[:] = mark
        self.live[self.sequence] = (span, mark)
        self.written = span

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, self.sequence))
        self.ring.acknowledge(sequence)
        self.live = {key: kept for key, kept in self.live.items() if key > sequence}

    @rule()
    def acknowledge_all(self) -> None:
        self.ring.acknowledge(self.sequence)
        self.live.clear()

    @invariant()
    def what_is_not_acknowledged_is_as_it_was_written(self) -> None:
        for span, mark in self.live.values():
            assert self.ring.view(span) == mark

    @invariant()
    def live_records_are_counted(self) -> None:
        assert self.ring.live_records == len(self.live)


TestRecords = Records.TestCase
TestRecords.settings = settings(max_examples=40, stateful_step_count=40)
