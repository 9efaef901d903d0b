"""Few tokens of a row have to be looked at one by one, whatever its logits and limits are like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.kernels.sampling_rows import choices_of

from kernels.reference.sampling import Choice
from kernels.triton.configs import Config, forced
from kernels.triton.sampling.filters import shortlist_filtered
from kernels.triton.sampling.scan import scan
from kernels.triton.sampling.scratch import Scratch

VOCAB = 4096
PLAIN = Choice(seed=1, position=0, candidate=0)


def listed(logits: np.ndarray, device: str, **limits: float) -> list[int]:
    """The ids on the shortlist of a row."""
    row = torch.from_numpy(logits.astype(np.float32))[None].to(device)
    choices = choices_of([replace(PLAIN, **limits)], device)
    with forced("sampling_tile", Config({"BLOCK": 1024}, num_warps=4)):
        scratch = Scratch.allocate(1, VOCAB, device)
        scan(row, None, choices, scratch)
        if limits.keys() - {"temperature"}:
            shortlist_filtered(row, None, choices, scratch, tally=True)
    ids = scratch.shortlist.ids[0, : scratch.shortlist.lengths[0]].cpu().numpy()
    return np.where(ids < 0, -1 - ids, ids).tolist()


def normal(spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(VOCAB) * spread


@pytest.mark.parametrize("temperature", [0.1, 1.0, 1e30])
def test_of_a_row_without_filters_what_cannot_win_is_not_listed(
    device: str, temperature: float
) -> None:
    found = listed(normal(), device, temperature=temperature)
    assert 1 <= len(found) <= 12


@pytest.mark.parametrize("temperature", [0.1, 1.0, 1e30])
def test_a_small_top_k_lists_few_more_than_it_keeps(device: str, temperature: float) -> None:
    logits = normal()
    found = listed(logits, device, top_k=10, temperature=temperature)
    assert set(np.argsort(-logits)[:10]) <= set(found)
    assert len(found) <= 20


def test_one_token_far_above_the_rest_does_not_lengthen_the_list(device: str) -> None:
    logits = normal()
    logits[77] = 1000.0
    assert len(listed(logits, device, top_k=10)) <= 20


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0, 1e30])
def test_top_p_lists_a_bin_and_what_may_win(device: str, temperature: float, spread: float) -> None:
    found = listed(normal(spread), device, top_p=0.9, temperature=temperature)
    assert 1 <= len(found) <= VOCAB // 32


def test_min_p_alone_lists_what_may_win_and_lies_above_it(device: str) -> None:
    logits = normal()
    found = listed(logits, device, min_p=0.1)
    assert 1 <= len(found) <= 12
    assert (logits[found] >= logits.max() + np.log(0.1) - 1e-3).all()
