"""Quantised decoders: near the same decoder with rounded weights, and the same in any company."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint

from kernels import cpu, reference
from kernels.c import quantised as native
from kernels.c.library import chosen
from kernels.choice import operations_for
from kernels.cpu.quantised import QUANTISATIONS, QuantisedOperations, pack_rounded
from kernels.ops import Operations
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

PROMPT = np.random.default_rng(0).integers(3, 250, 24)
TOKENS = 12


def oracle(name: str) -> Operations:
    """Rounded weights, all else in float64."""
    pack = partial(
        pack_rounded, quantisation=QUANTISATIONS[name], pack_linear=reference.pack_linear
    )
    return QuantisedOperations(reference, pack, torch.float64)


def continued(
    folder: Path,
    ops: Operations,
    dtype: torch.dtype,
    following: list[int] | None = None,
    kept: torch.dtype | None = None,
) -> tuple[list[int], torch.Tensor]:
    """The likeliest tokens after the prompt, one step each, and the logits they came from.

    Args:
        folder: of the checkpoint.
        ops: that compute it.
        dtype: in which.
        following: what to go on with, in place of the likeliest.
        kept: dtype of the KV cache, where it is another.
    """
    checkpoint = read_checkpoint(folder)
    decoder = Decoder(checkpoint.spec, load_weights(checkpoint, ops, dtype), ops, dtype)
    kv, table = KvCache(checkpoint.spec, 64, kept or dtype), np.arange(64, dtype=np.int32)[None]
    ids, start, tokens, rows = PROMPT, 0, [], []
    for step in range(TOKENS):
        one, count = np.zeros(1, np.int64), np.array([len(ids)])
        batch = Batch.build(ids, one, one + start, count, table)
        logits = decoder.logits(decoder.forward(batch, kv)[-1:])
        start += len(ids)
        rows.append(logits[0])
        tokens.append(int(logits.argmax()))
        ids = np.array([tokens[-1] if following is None else following[step]])
    return tokens, torch.stack(rows)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("name", QUANTISATIONS)
def test_greedy_tokens_are_those_of_the_same_decoder_with_rounded_weights(
    tmp_path: Path, family: str, name: str
) -> None:
    folder = write_checkpoint(tmp_path, family)
    tokens, want = continued(folder, oracle(name), torch.float64)

    got_tokens, got = continued(folder, operations_for("cpu", torch.float32, name), torch.float32)

    assert got_tokens == tokens
    assert (got - want).norm() / want.norm() < (5e-2 if name == "w8a8" else 1e-3)


@pytest.mark.parametrize("name", QUANTISATIONS)
def test_bfloat16_stays_near(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, "llama", "bfloat16")
    tokens, want = continued(folder, oracle(name), torch.float64)

    ops = operations_for("cpu", torch.bfloat16, name)
    _, got = continued(folder, ops, torch.bfloat16, tokens)

    assert (got - want).norm() / want.norm() < 6e-2


def test_an_int8_cache_stays_near(tmp_path: Path) -> None:
    if chosen().library is None:
        pytest.skip(chosen().why_not)
    folder = write_checkpoint(tmp_path, "llama", "bfloat16")
    tokens, want = continued(folder, reference, torch.float64)

    ops = operations_for("cpu", torch.bfloat16, kv_dtype="int8")
    _, got = continued(folder, ops, torch.bfloat16, tokens, torch.int8)

    assert (got - want).norm() / want.norm() < 6e-2


@pytest.mark.parametrize(("name", "cost"), [("int8", 0.05), ("w8a8", 0.08), ("int4", 0.5)])
def test_rounding_costs_what_it_must_and_no_more(tmp_path: Path, name: str, cost: float) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    tokens, whole = continued(folder, reference, torch.float64)

    ops = operations_for("cpu", torch.float32, name)
    _, got = continued(folder, ops, torch.float32, tokens)

    assert cost / 20 < (got - whole).norm() / whole.norm() < cost


@pytest.mark.parametrize("name", QUANTISATIONS)
@pytest.mark.parametrize("library", [lambda: None, lambda: chosen().library], ids=["torch", "C"])
def test_logits_in_float32_do_not_depend_on_how_a_prompt_is_cut(
    tmp_path: Path, name: str, library: Callable[[], None]
) -> None:
    from kernels.cpu import exact

    checkpoint = read_checkpoint(write_checkpoint(tmp_path, "mixtral"))
    ops = native.quantised(exact, torch.float32, QUANTISATIONS[name], library())
    weights = load_weights(checkpoint, ops, torch.float32)
    decoder = Decoder(checkpoint.spec, weights, ops, torch.float32)
    table = np.arange(64, dtype=np.int32)[None]

    def logits(sizes: list[int]) -> torch.Tensor:
        kv, rows, start = KvCache(checkpoint.spec, 64, torch.float32), [], 0
        for size in sizes:
            ids, zero = PROMPT[start : start + size], np.zeros(1, np.int64)
            batch = Batch.build(ids, zero, zero + start, np.array([size]), table)
            rows.append(decoder.logits(decoder.forward(batch, kv)))
            start += size
        return torch.cat(rows)

    whole = logits([24])
    assert torch.equal(logits([1] * 24), whole)
    assert torch.equal(logits([13, 1, 7, 3]), whole)


def test_experts_of_the_plain_set_serve_where_no_library_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_CPU_LEVEL", "torch")
    ops = native.quantised(cpu, torch.bfloat16, QUANTISATIONS["int4"], None)

    tokens, _ = continued(write_checkpoint(tmp_path, "mixtral"), ops, torch.bfloat16)

    assert len(tokens) == TOKENS
