"""What attention must move and compute, against what its operands hold."""

from __future__ import annotations

import pytest
import torch

from bench.kernels.cases import attention
from bench.kernels.cases.attention import Sizes
from bench.kernels.cases.case import Place

ALL = [Sizes(2, 9, 9, 4, 2, 16), Sizes(3, 9, 4, 4, 2, 16), Sizes(3, 9, 1, 4, 2, 16, int8=True)]


@pytest.mark.parametrize("sizes", ALL)
def test_bytes_are_those_of_operands_and_result(sizes: Sizes) -> None:
    step = attention._step(sizes, Place("cpu"))
    tensors = [step.q, step.q, step.k_cache, step.v_cache, step.chunks.slot_table]
    if step.scales is not None:
        tensors += [step.scales.k, step.scales.v]

    assert sizes.moved_bytes == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("sizes", ALL)
def test_scores_are_those_that_causality_leaves(sizes: Sizes) -> None:
    positions = torch.arange(sizes.length)
    seen = positions[None, :] <= positions[-sizes.queries :, None]

    assert sizes.scores == sizes.sequences * int(seen.sum())


def test_slots_are_strewn_over_the_cache_and_differ() -> None:
    table = attention._step(Sizes(3, 50, 1, 4, 2, 16), Place("cpu")).chunks.slot_table

    assert sorted(table.flatten().tolist()) == list(range(150))
    assert table.flatten().tolist() != list(range(150))
