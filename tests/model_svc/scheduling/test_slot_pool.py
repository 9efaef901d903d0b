"""Slots are handed out once, shared by count, and come back."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_svc.scheduling.slot_pool import PoolExhausted, SlotPool


def test_the_slots_given_back_last_are_taken_first():
    pool = SlotPool(8)
    first = pool.take(3)
    pool.take(2)
    pool.give_back(first)

    assert sorted(pool.take(3).tolist()) == sorted(first.tolist())


def test_a_shared_slot_is_free_when_its_last_holder_gives_it_back():
    pool = SlotPool(4)
    slots = pool.take(2)
    pool.share(slots)

    pool.give_back(slots)
    assert pool.free_slots == 2
    pool.give_back(slots)
    assert pool.free_slots == 4


def test_too_large_a_wish_takes_nothing():
    pool = SlotPool(4)

    with pytest.raises(PoolExhausted, match="5 KV slots wanted, 4 free"):
        pool.take(5)
    assert pool.free_slots == 4


def test_sequences_that_take_turns_have_no_regular_slots():
    pool = SlotPool(5000)
    turns = np.array([pool.take(32) for _ in range(100)])

    distances = np.diff(turns, axis=0)
    assert all(len(np.unique(own)) > 20 for own in distances.T)


def test_a_part_of_the_pool_is_used_before_the_next():
    pool = SlotPool(5000)

    assert pool.take(320).max() < 320
    assert pool.take(32).min() >= 320


class Cache:
    """An owner of idle slots that holds each of its slots itself."""

    def __init__(self):
        self.slots = []

    @property
    def evictable(self):
        return len(self.slots)

    def evict(self, count):
        given, self.slots = self.slots[:count], self.slots[count:]
        return np.array(given, np.int32)


def test_idle_slots_are_available_and_are_evicted_only_once_no_slot_is_free():
    cache = Cache()
    pool = SlotPool(6, cache)
    cache.slots = pool.take(4).tolist()
    assert (pool.free_slots, pool.evictable_slots, pool.available_slots) == (2, 4, 6)
    assert pool.used_slots == 0

    pool.take(2)
    assert pool.evictable_slots == 4
    pool.take(3)

    assert (pool.free_slots, pool.evictable_slots, pool.used_slots) == (0, 1, 5)
    with pytest.raises(PoolExhausted, match="2 KV slots wanted, 1 free"):
        pool.take(2)


class Pool(RuleBasedStateMachine):
    """Any order of taking, sharing and giving back, against a count of holders."""

    def __init__(self):
        super().__init__()
        self.pool = SlotPool(24)
        self.held: list[np.ndarray] = []

    @rule(count=st.integers(0, 24))
    def take(self, count):
        if count > self.pool.free_slots:
            with pytest.raises(PoolExhausted):
                self.pool.take(count)
        else:
            self.held.append(self.pool.take(count))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data):
        slots = data.draw(st.sampled_from(self.held))
        part = slots[: data.draw(st.integers(0, len(slots)))]
        self.pool.share(part)
        self.held.append(part.copy())

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        self.pool.give_back(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def each_slot_is_free_or_held(self):
        held = {slot for slots in self.held for slot in slots.tolist()}
        assert self.pool.used_slots == len(held)
        assert self.pool.free_slots == 24 - len(held)

    def teardown(self):
        for slots in self.held:
            self.pool.give_back(slots)
        assert sorted(self.pool.take(24).tolist()) == list(range(24))


TestPool = Pool.TestCase
