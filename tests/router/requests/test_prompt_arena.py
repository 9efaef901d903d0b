from __future__ import annotations

import array

import pytest

from chassis.memory.shared_file import FOLDER
from router.requests.prompt_arena import Prompt, PromptArena


@pytest.fixture
def arena():
    arena = PromptArena(4096)
    yield arena
    arena.close()


def ids(*values: int) -> bytes:
    return array.array("i", values).tobytes()


def test_a_slab_comes_back_when_its_last_holder_lets_go(arena):
    lease = arena.lend(10)
    lease.hold()
    lease.release()
    assert arena.held_slabs == 1
    lease.release()
    assert arena.held_slabs == 0


def test_there_is_no_slab_where_there_is_no_room(arena):
    first = arena.lend(1024)
    assert arena.lend(1) is None
    first.release()
    assert arena.lend(1) is not None


def test_without_shared_memory_nothing_is_lent_or_described():
    arena = PromptArena(0)
    assert arena.lend(1) is None
    assert arena.store(ids(1)) is None
    assert arena.describe().name == ""


def test_a_retired_file_goes_with_its_last_slab_and_is_never_lent_again(arena):
    lease = arena.lend(10)
    name = arena.file.name
    assert arena.retire(name)
    assert arena.lend(1) is None
    arena.renew()
    assert not arena.retire(name)
    assert arena.file.name != name
    assert (FOLDER / name).exists()
    lease.release()
    assert not (FOLDER / name).exists()
    assert arena.held_slabs == 0


def test_a_proof_counts_for_the_current_file_only(arena):
    from protos import memory_pb2

    name, proof = arena.file.name, memory_pb2.SharedProof(nonce=arena.file.nonce)
    assert arena.proven_by(name, proof)
    assert not arena.proven_by(name, memory_pb2.SharedProof())
    arena.retire(name)
    arena.renew()
    assert not arena.proven_by(name, proof)


@pytest.mark.parametrize("shared", [True, False])
def test_a_prompt_is_the_same_in_a_slab_and_here(arena, shared):
    raw = ids(5, 6, 7)
    lease = arena.store(raw) if shared else None
    prompt = Prompt(3, lease, b"" if shared else raw)

    assert prompt.to_bytes() == raw
    assert list(prompt.ids()) == [5, 6, 7]
    assert list(prompt.tail(2)) == [6, 7]
    assert list(prompt.tail(9)) == [5, 6, 7]
    assert (prompt.span is not None) == shared
    prompt.close()
    prompt.close()
    assert arena.held_slabs == 0


def test_a_span_is_as_long_as_the_prompt_not_as_the_slab(arena):
    prompt = Prompt(3, arena.lend(100))
    assert prompt.span.length == 12
    prompt.close()
