"""Edited logits have the bits that the CPU finds, and histories grow as tokens are drawn."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from support.kernels.sampling_rows import ragged_of, to_device

from kernels.cpu.logits import add_bias, penalise
from kernels.triton.configs import Config, forced
from kernels.triton.sampling.batch import Edits, Ragged
from kernels.triton.sampling.logits import edit_logits, note_tokens
from kernels.triton.sampling.scratch import Edited

INF = np.inf
MOST = float(np.finfo(np.float32).max)
VOCAB = 300
PART = Config({"BLOCK": 64, "PART": 128}, num_warps=4)


def edited_rows(
    logits: torch.Tensor, edits: Edits, positions: list[int]
) -> tuple[np.ndarray, list[int]]:
    rows, device = len(logits), logits.device
    edited = Edited(
        torch.full(logits.shape, torch.nan, device=device),
        torch.full((rows,), -1, dtype=torch.int32, device=device),
    )
    with forced("edit_logits", PART):
        edit_logits(logits, edits, to_device(positions, np.int64, str(device)), edited)
    return edited.logits.cpu().numpy(), edited.rows.tolist()


def edits_of(
    device: str,
    rows: int,
    bias: dict[int, dict[int, float]] | None = None,
    history: dict[int, dict[int, int]] | None = None,
    penalties: tuple[float, float, float] = (1.0, 0.0, 0.0),
    suppressed: dict[int, list[int]] | None = None,
    min_tokens: int = 0,
) -> Edits:
    def lists(of: dict[int, dict[int, float]] | None, kind: type) -> Ragged:
        each = [(of or {}).get(row, {}) for row in range(rows)]
        return ragged_of([list(x) for x in each], [list(x.values()) for x in each], kind, device)

    return Edits(
        lists(bias, np.float32),
        lists(history, np.int32),
        *(to_device([penalty] * rows, np.float32, device) for penalty in penalties),
        ragged_of([(suppressed or {}).get(row, []) for row in range(rows)], None, int, device),
        to_device([min_tokens] * rows, np.int64, device),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_penalties_have_the_cpus_bits(device: str, dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    logits = (torch.randn(2, VOCAB, device=device) * 9).to(dtype)
    logits[0, :6] = torch.tensor([INF, -INF, torch.nan, 0.0, -0.0, 1.0])
    ids = np.sort(np.concatenate([np.arange(6), random.permutation(np.arange(6, VOCAB))[:150]]))
    counts = random.integers(0, 4, len(ids)).astype(np.int32)
    shuffled = random.permutation(len(ids))
    history = {0: dict(zip(ids[shuffled].tolist(), counts[shuffled].tolist(), strict=True))}
    penalties = (1.3, 0.4, -0.2)
    expected = logits[0].float().cpu().numpy().copy()
    with np.errstate(invalid="ignore"):
        penalise(expected, ids, counts, *penalties)
    found, rows = edited_rows(logits, edits_of(device, 2, None, history, penalties), [0, 0])
    np.testing.assert_array_equal(found[0].view(np.int32), expected.view(np.int32))
    assert rows == [1, 0]
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("penalties", list(product((1e-45, MOST), (MOST, -MOST), (0.0, -MOST))))
def test_extremes_have_the_cpus_bits(device: str, penalties: tuple[float, float, float]) -> None:
    logits = torch.tensor([[2.0, -2.0, 0.0, MOST, -MOST, INF, -INF, torch.nan] * 5], device=device)
    ids = np.arange(40)
    amounts = np.repeat(np.array([0.0, MOST, -MOST, 1.0, -INF], np.float32), 8)
    counts = (ids % 3).astype(np.int32)
    expected = logits[0].cpu().numpy().copy()
    add_bias(expected, ids, amounts)
    penalise(expected, ids, counts, *penalties)
    bias = {0: dict(zip(ids.tolist(), amounts.tolist(), strict=True))}
    history = {0: dict(zip(ids.tolist(), counts.tolist(), strict=True))}
    found, _ = edited_rows(logits, edits_of(device, 1, bias, history, penalties), [0])
    np.testing.assert_array_equal(found[0], expected)


def test_bias_comes_before_penalties_and_suppression_last(device: str) -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0, 4.0]], device=device)
    edits = edits_of(
        device, 1, {0: {1: 3.0, 3: -8.0}}, {0: {1: 2, 3: 0, 0: 0}}, (2.0, 0.5, 0.25), {0: [2]}, 1
    )
    found, rows = edited_rows(logits, edits, [0])
    assert found.tolist() == [[0.5, 0.0, -INF, -8.0]]
    assert rows == [1]


def test_suppressed_ids_come_back_at_the_position_that_min_tokens_says(device: str) -> None:
    logits = torch.zeros(3, VOCAB, device=device)
    edits = edits_of(device, 3, suppressed={0: [7, 299], 1: [7], 2: [7]}, min_tokens=5)
    found, rows = edited_rows(logits, edits, [4, 5, 6])
    assert rows == [1, 0, 0]
    assert np.flatnonzero(found[0] == -INF).tolist() == [7, 299]
    assert (found[0] == 0).sum() == VOCAB - 2


def test_ids_outside_the_vocabulary_are_passed_over(device: str) -> None:
    logits = torch.zeros(2, VOCAB, device=device)
    bias = {0: {VOCAB: 1.0, 2**31 - 1: 1.0, VOCAB - 1: 2.0}, 1: {5: 3.0}}
    found, rows = edited_rows(
        logits, edits_of(device, 2, bias, suppressed={0: [VOCAB, 0]}, min_tokens=1), [0, 0]
    )
    assert rows == [1, 1]
    assert np.flatnonzero(found[0]).tolist() == [0, VOCAB - 1]
    assert np.flatnonzero(found[1]).tolist() == [5]


def test_raw_logits_stay_as_they_are(device: str) -> None:
    logits = torch.randn(1, VOCAB, device=device)
    before = logits.clone()
    edited_rows(logits, edits_of(device, 1, {0: dict.fromkeys(range(VOCAB), 1.0)}), [0])
    assert torch.equal(logits, before)


def test_room_for_another_vocabulary_is_refused(device: str) -> None:
    edited = Edited(
        torch.zeros(1, 5, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    )
    with pytest.raises(ValueError, match="room"):
        positions = torch.zeros(1, dtype=torch.int64, device=device)
        edit_logits(torch.zeros(1, 4, device=device), edits_of(device, 1), positions, edited)


def test_a_drawn_token_is_counted_or_added(device: str) -> None:
    history = ragged_of([[4, 9], [4, 9], []], [[0, 3], [0, 3], []], np.int32, device)
    note_tokens(to_device([9, 2, 5], np.int32, device), history)
    assert history.lengths.tolist() == [2, 3, 1]
    stretches = [
        list(zip(history.ids[a : a + n].tolist(), history.amounts[a : a + n].tolist(), strict=True))
        for a, n in zip(history.starts.tolist(), history.lengths.tolist(), strict=True)
    ]
    assert stretches == [[(4, 0), (9, 4)], [(4, 0), (9, 3), (2, 1)], [(5, 1)]]


def test_a_token_is_found_in_a_long_history(device: str) -> None:
    ids = list(range(0, 5000, 2))
    history = ragged_of([ids], [[1] * len(ids)], np.int32, device)
    for token in (4998, 3, 4998, 3):
        note_tokens(to_device([token], np.int32, device), history)
    start = int(history.starts[0])
    assert history.lengths.tolist() == [len(ids) + 1]
    assert history.amounts[start + len(ids) - 1 : start + len(ids) + 1].tolist() == [3, 2]


def test_a_row_without_a_history_keeps_none(device: str) -> None:
    history = ragged_of([[4]], [[1]], np.int32, device)
    history.starts[0] = -1
    before = [array.clone() for array in history]
    note_tokens(to_device([4], np.int32, device), history)
    assert all(torch.equal(*pair) for pair in zip(history, before, strict=True))
