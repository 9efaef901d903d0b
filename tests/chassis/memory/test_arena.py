"""Slabs never overlap, and what is given back can be taken again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.memory.arena import Arena
from chassis.memory.shared_file import HEADER_BYTES, SharedFile
from protos.memory_pb2 import Span


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    file = SharedFile.create("arena", 1024, tmp_path)
    yield Arena(file)
    file.close()


def take(arena: Arena, payload_bytes: int) -> Span:
    slab = arena.take(payload_bytes)
    assert slab is not None
    return slab


def test_a_slab_names_its_file_and_leaves_the_header_alone(arena: Arena) -> None:
    slab = take(arena, 100)
    assert slab == Span(name=arena.file.name, offset=HEADER_BYTES, length=100)
    assert arena.held_slabs == 1


def test_all_of_an_arena_can_be_one_slab(arena: Arena) -> None:
    slab = take(arena, 1024)
    assert arena.take(1) is None
    arena.give_back(slab)
    assert arena.take(1025) is None
    assert arena.held_slabs == 0


@pytest.mark.parametrize("payload_bytes", [1, 63, 64, 65, 100, 1000])
def test_an_arena_of_any_size_can_be_filled(tmp_path: Path, payload_bytes: int) -> None:
    file = SharedFile.create("arena", payload_bytes, tmp_path)
    try:
        assert Arena(file).take(payload_bytes) is not None
        assert Arena(file).take(payload_bytes + 1) is None
    finally:
        file.close()


def test_a_gap_too_short_is_passed_over(arena: Arena) -> None:
    slabs = [take(arena, 256) for _ in range(4)]
    arena.give_back(slabs[0])
    arena.give_back(slabs[2])
    assert arena.take(512) is None
    arena.give_back(slabs[1])
    assert take(arena, 512).offset == slabs[0].offset


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_freed_neighbours_are_joined_whichever_goes_first(
    arena: Arena, order: tuple[int, ...]
) -> None:
    slabs = [take(arena, 320) for _ in range(3)]
    for i in order:
        arena.give_back(slabs[i])
    assert take(arena, 1024).offset == HEADER_BYTES


def test_a_slab_is_given_back_once(arena: Arena) -> None:
    slab = take(arena, 64)
    arena.give_back(slab)
    with pytest.raises(KeyError):
        arena.give_back(slab)


def test_a_slab_never_handed_out_is_refused(arena: Arena) -> None:
    take(arena, 640)
    with pytest.raises(KeyError):
        arena.give_back(Span(name=arena.file.name, offset=HEADER_BYTES + 64, length=64))


def test_a_slab_of_a_retired_arena_frees_nothing_here(arena: Arena, tmp_path: Path) -> None:
    retired = Arena(SharedFile.create("arena", 1024, tmp_path))
    stale = take(retired, 64)
    assert take(arena, 64).offset == stale.offset
    with pytest.raises(KeyError):
        arena.give_back(stale)
    assert arena.held_slabs == 1
    retired.file.close()


def test_a_lent_slab_comes_back_when_the_block_fails(arena: Arena) -> None:
    with pytest.raises(ZeroDivisionError), arena.lend(1024) as slab:
        assert slab is not None
        assert arena.held_slabs == 1
        raise ZeroDivisionError
    assert arena.held_slabs == 0


def test_where_there_is_no_room_nothing_is_lent(arena: Arena) -> None:
    with arena.lend(1025) as slab:
        assert slab is None
    assert arena.held_slabs == 0


class Slabs(RuleBasedStateMachine):
    """Any order of taking and giving back, each slab filled with a byte of its own."""

    payload_bytes = 2048 + 40  # the file does not end where a slab would

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = SharedFile.create("arena", self.payload_bytes, Path(self.folder.name))
        self.arena = Arena(self.file)
        self.held: list[tuple[Span, bytes]] = []
        self.count = 0

    def teardown(self) -> None:
        try:
            for slab, _ in self.held:
                self.arena.give_back(slab)
            assert self.arena.held_slabs == 0
            assert self.arena.take(self.payload_bytes) is not None
        finally:
            self.file.close()
            self.folder.cleanup()

    def gaps(self) -> Iterator[int]:
        free_from = HEADER_BYTES
        for slab, _ in sorted(self.held, key=lambda pair: pair[0].offset):
            yield slab.offset - free_from
            free_from = slab.offset + max(64, -(-slab.length // 64) * 64)
        yield len(self.file.view) - free_from

    @rule(payload_bytes=st.integers(0, 700) | st.just(2048))
    def take(self, payload_bytes: int) -> None:
        slab = self.arena.take(payload_bytes)
        if slab is None:
            assert max(self.gaps()) < max(1, payload_bytes)
            return
        assert slab.length == payload_bytes
        self.count += 1
        mark = bytes([self.count % 256]) * payload_bytes
        self.file.view[slab.offset : slab.offset + slab.length] = mark
        self.held.append((slab, mark))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slab, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.arena.give_back(slab)

    @invariant()
    def slabs_keep_what_was_written_to_them(self) -> None:
        for slab, mark in self.held:
            assert self.file.view[slab.offset : slab.offset + slab.length] == mark

    @invariant()
    def slabs_lie_apart_and_inside(self) -> None:
        assert all(slab.offset % 64 == 0 for slab, _ in self.held)
        # Only the last slab may have less behind it than its size rounded up.
        *between, last = self.gaps()
        assert min(between, default=0) >= 0
        assert last > -64
        ends = [slab.offset + slab.length for slab, _ in self.held]
        assert max(ends, default=0) <= len(self.file.view)

    @invariant()
    def held_slabs_are_counted(self) -> None:
        assert self.arena.held_slabs == len(self.held)


TestSlabs = Slabs.TestCase
TestSlabs.settings = settings(max_examples=50, stateful_step_count=40)
