"""Chunks of sequences become one step's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_svc.models.batch import Batch, DecodeBatch

TABLE = np.random.default_rng(0).permutation(4 * 50).astype(np.int32).reshape(4, 50)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 19)), min_size=1, max_size=4),
    st.permutations(range(4)),
)
def test_every_token_has_its_own_position_and_slot(
    chunks: list[tuple[int, int]], rows: list[int]
) -> None:
    starts, counts = (np.array(column) for column in zip(*chunks, strict=True))
    own_rows = np.array(rows[: len(chunks)])
    ids = np.arange(counts.sum(), dtype=np.uint32)

    batch = Batch.build(ids, own_rows, starts, counts, TABLE)

    want = [
        (row, position)
        for row, start, count in zip(own_rows, starts, counts, strict=True)
        for position in range(start, start + count)
    ]
    assert batch.token_ids.tolist() == ids.tolist()
    assert batch.positions.tolist() == [position for _, position in want]
    assert batch.slots.tolist() == [TABLE[row, position] for row, position in want]
    assert batch.attention.q_starts.tolist() == [0, *np.cumsum(counts)]
    assert batch.attention.kv_lengths.tolist() == (starts + counts).tolist()
    assert batch.attention.rows.tolist() == own_rows.tolist()


@pytest.mark.parametrize(
    ("counts", "decodes"), [([1, 1, 1], 3), ([1, 1, 4], 2), ([2, 1, 1], 0), ([1, 3, 1], 1)]
)
def test_leading_single_tokens_are_decodes(counts: list[int], decodes: int) -> None:
    ids = np.zeros(sum(counts), dtype=np.int64)

    batch = Batch.build(ids, np.arange(3), np.full(3, 5), np.array(counts), TABLE)

    assert batch.attention.num_decodes == decodes


def test_slot_table_is_shared_not_copied() -> None:
    one = np.array([1])

    batch = Batch.build(one, one, one, one, TABLE)

    assert batch.attention.slot_table.data_ptr() == TABLE.ctypes.data


def tensors(batch: Batch) -> list[torch.Tensor]:
    chunks = batch.attention
    of_tokens = (batch.token_ids, batch.positions, batch.slots)
    return [*of_tokens, chunks.rows, chunks.q_starts, chunks.kv_lengths]


def numbers(batch: Batch) -> list[list[int]]:
    return [part.tolist() for part in tensors(batch)]


def test_a_batch_of_decodes_becomes_those_of_each_step_where_it_is() -> None:
    decodes = DecodeBatch(3, TABLE)
    addresses = [part.data_ptr() for part in tensors(decodes.batch)]
    for ids, own_rows, positions in (
        ([7, 8, 9], [0, 1, 2], [3, 4, 30]),
        ([1, 2, 3], [3, 0, 1], [9, 0, 40]),
    ):
        rows, starts = np.array(own_rows), np.array(positions)
        decodes.write(np.array(ids, np.int32), rows, starts, TABLE[rows, starts])

        built = Batch.build(np.array(ids), rows, starts, np.ones(3, np.int64), TABLE)
        assert numbers(decodes.batch) == numbers(built)
        assert decodes.batch.attention.num_decodes == built.attention.num_decodes
        assert decodes.batch.attention.num_tokens == built.attention.num_tokens
    assert [part.data_ptr() for part in tensors(decodes.batch)] == addresses
    assert decodes.batch.attention.slot_table.data_ptr() == TABLE.ctypes.data
