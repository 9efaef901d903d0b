"""Log-probabilities read on the device are the CPU's; the order of the likeliest is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.kernels.sampling_rows import to_device

from kernels.cpu.logits import log_probabilities as cpu_log_probabilities
from kernels.triton.configs import Config, forced
from kernels.triton.sampling.log_probabilities import (
    ALTERNATIVES,
    LogProbabilities,
    Partials,
    log_probabilities,
)

INF = np.inf
NAN = np.nan


def tell(
    logits: torch.Tensor, tokens: list[int], alternatives: list[int], block: int = 128
) -> LogProbabilities:
    rows, vocab_size = logits.shape
    device = str(logits.device)
    out = LogProbabilities.allocate(rows, device)
    with forced("log_probabilities", Config({"BLOCK": block}, num_warps=4)):
        partials = Partials.allocate(rows, vocab_size, device)
        log_probabilities(
            logits,
            to_device(tokens, np.int32, device),
            to_device(alternatives, np.int32, device),
            partials,
            out,
        )
    return LogProbabilities(*(array.cpu() for array in out))


def assert_told(logits: torch.Tensor, tokens: list[int], alternatives: list[int]) -> None:
    found = tell(logits, tokens, alternatives)
    wide = logits.float().cpu().numpy()
    asked = [max(0, count) for count in alternatives]
    with np.errstate(invalid="ignore"):
        chosen, likely = cpu_log_probabilities(wide, np.array(tokens), asked)
    for i, count in enumerate(alternatives):
        expected = chosen[i] if count >= 0 else np.float32(NAN)
        np.testing.assert_allclose(found.chosen[i].numpy(), expected, rtol=0, atol=1e-5)
        ids, values = likely[i]
        assert found.ids[i, : len(ids)].tolist() == ids.tolist()
        assert (found.ids[i, len(ids) :] == -1).all()
        np.testing.assert_allclose(found.likely[i, : len(ids)].numpy(), values, rtol=0, atol=1e-5)
        assert found.likely[i, len(ids) :].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [1, 127, 128, 129, 515])
def test_log_probabilities_are_the_cpus(device: str, dtype: torch.dtype, vocab_size: int) -> None:
    logits = (torch.randn(4, vocab_size, device=device) * 5 + 20).to(dtype)
    tokens = [0, vocab_size - 1, vocab_size // 2, 0]
    assert_told(logits, tokens, [20, ALTERNATIVES, 0, -1])


def test_equal_logits_rank_by_id(device: str) -> None:
    ids = torch.arange(515, device=device)
    rows = [ids * 0.0, (ids % 7 == 6) * 1.0, torch.where(ids % 2 == 0, -0.0, 0.0)]
    assert_told(torch.stack(rows), [0, 6, 1], [20, 20, 20])


def test_infinite_and_nan_logits_are_told_as_on_the_cpu(device: str) -> None:
    ids = torch.arange(300, device=device)
    normal = torch.randn(300, device=device)
    rows = [
        torch.where(ids > 3, -INF, normal),
        torch.where(ids < 140, -INF, normal),
        torch.where(ids == 150, NAN, normal),
        torch.where(ids == 150, INF, normal),
        torch.full((300,), -INF, device=device),
        torch.full((300,), NAN, device=device),
    ]
    assert_told(torch.stack(rows), [2, 5, 7, 150, 0, 0], [20] * 6)


def test_rows_far_from_zero_keep_their_precision(device: str) -> None:
    logits = torch.randn(2, 300, device=device) + torch.tensor([[-4000.0], [4000.0]], device=device)
    found = tell(logits, [0, 0], [5, 5])
    expected = torch.log_softmax(logits.double(), dim=-1).cpu()
    assert (found.chosen - expected[:, 0]).abs().max() < 1e-3
    assert found.ids[:, :5].tolist() == expected.topk(5).indices.tolist()


def test_rows_may_lie_apart(device: str) -> None:
    wide = torch.full((3, 500), torch.nan, device=device)
    wide[:, 100:400] = torch.randn(3, 300)
    assert_told(wide[:, 100:400], [1, 2, 299], [3, 0, 20])


def test_what_there_is_no_room_for_is_refused(device: str) -> None:
    logits = torch.zeros(2, 300, device=device)
    numbers = torch.zeros(2, dtype=torch.int32, device=device)
    out = LogProbabilities.allocate(2, device)
    with pytest.raises(ValueError, match="room"):
        log_probabilities(logits, numbers, numbers, Partials.allocate(1, 300, device), out)
    with pytest.raises(ValueError, match="tokens"):
        partials = Partials.allocate(2, 300, device)
        log_probabilities(logits, numbers[:1], numbers, partials, out)
