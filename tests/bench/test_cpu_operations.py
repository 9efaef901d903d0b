"""The cases compute the same both ways, and a line tells ratios of medians."""

from __future__ import annotations

import re

import pytest
import torch

from bench import cpu_operations
from bench.cpu_operations import Case, attention_case, chunks_of, measure, row_cases, theirs


def test_chunks_have_slots_of_their_own() -> None:
    chunks = chunks_of([1, 1, 1], [5, 1, 3])

    used = torch.cat([row[:n] for row, n in zip(chunks.slot_table, [5, 1, 3], strict=True)])

    assert sorted(used.tolist()) == list(range(9))
    assert chunks.num_decodes == 3
    assert chunks_of([4, 2], [4, 9]).num_decodes == 0


def test_every_kind_of_case_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_operations, "LAYERS", 1)
    cases = [
        *row_cases(theirs(), 2),
        attention_case("decode", theirs(), [1, 1], [3, 5]),
        attention_case("prompt", theirs(), [4], [6]),
    ]

    for case in cases:
        case.ours()
        case.theirs()

    # 8 slots of 4 heads of 64 dimensions in 2 bytes, keys and values.
    assert cases[-2].limit_bytes == 8 * 4 * 64 * 2 * 2
    # Queries see 3, 4, 5 and 6 keys; each is multiplied with and its value added, in 20 heads.
    assert cases[-1].limit_flops == 4 * (3 + 4 + 5 + 6) * 20 * 64


def test_a_line_tells_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_operations, "_READ_BYTES", 1024)
    monkeypatch.setattr(cpu_operations, "median_times", lambda calls, rounds: [0.004, 0.01, 0.001])
    case = Case("decode", lambda: None, lambda: None, limit_bytes=2048)

    line = measure(case, rounds=1)

    assert "4.000 ms" in line
    assert "PyTorch's x  2.50" in line
    assert line.endswith("50% of reading its bytes")


def test_shares_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_operations, "LAYERS", 1)

    assert re.fullmatch(
        r"attention is \d+% of attention and products, 32 x 3",
        cpu_operations.share_of_attention(theirs(), 3, 1),
    )
    assert re.fullmatch(
        r"products of a lone token: [\d.]+ GB/s, \d+% of a sum's",
        cpu_operations.share_of_reading(theirs(), 1),
    )
