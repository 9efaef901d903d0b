"""Quantised decoders: near the same decoder with rounded weights, and the same in any company."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.kernels.operations import QUANTISED, in_torch

from kernels.bound import bind
from kernels.c.library import load_library
from kernels.cpu.experts import Arithmetic, pack_separate
from kernels.cpu.quantised import RoundedLinear
from kernels.formats import WEIGHT_FORMATS, Int4Group, Int8, KvInt8, WeightFormat
from kernels.layers import Experts, Linear
from kernels.ops import Operations, Routing
from kernels.reference import attention, rows
from kernels.reference.operations import reference
from kernels.select import operations_for, table_of_cpu
from kernels.table import Table
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

PROMPT = np.random.default_rng(0).integers(3, 250, 24)
TOKENS = 12


def oracle(name: str) -> Operations:
    """Rounded weights, all else in float64."""
    table = Table("reference")
    for part in (rows, attention):
        table.add(part)
    for format in (Int8, Int4Group):
        rounded = partial(RoundedLinear, pack_dense=reference.pack_linear)
        table.add_layer("pack_linear", rounded, format)
        table.add_layer("pack_experts", partial(rounded_experts, rounded), format)
    return bind(table, WEIGHT_FORMATS[name])


def rounded_experts(
    pack: Callable[..., Linear],
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    format: WeightFormat,
) -> Experts:
    """A rounded layer for each expert, weighed in float64."""
    arithmetic = Arithmetic(partial(pack, format=format), rows.silu_mul, torch.float64)
    scores = reference.pack_linear(router, None)
    return pack_separate(scores, gate_up, down, routing, arithmetic)


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
@pytest.mark.parametrize("name", QUANTISED)
def test_greedy_tokens_are_those_of_the_same_decoder_with_rounded_weights(
    tmp_path: Path, family: str, name: str
) -> None:
    folder = write_checkpoint(tmp_path, family)
    tokens, want = continued(folder, oracle(name), torch.float64)

    got_tokens, got = continued(
        folder, operations_for("cpu", torch.float32, WEIGHT_FORMATS[name]), torch.float32
    )

    assert got_tokens == tokens
    assert (got - want).norm() / want.norm() < (5e-2 if name == "w8a8" else 1e-3)


@pytest.mark.parametrize("name", QUANTISED)
def test_bfloat16_stays_near(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, "llama", "bfloat16")
    tokens, want = continued(folder, oracle(name), torch.float64)

    ops = operations_for("cpu", torch.bfloat16, WEIGHT_FORMATS[name])
    _, got = continued(folder, ops, torch.bfloat16, tokens)

    assert (got - want).norm() / want.norm() < 6e-2


def test_an_int8_cache_stays_near(tmp_path: Path) -> None:
    if load_library().library is None:
        pytest.skip(load_library().why_not)
    folder = write_checkpoint(tmp_path, "llama", "bfloat16")
    tokens, want = continued(folder, reference, torch.float64)

    ops = operations_for("cpu", torch.bfloat16, caches=KvInt8())
    _, got = continued(folder, ops, torch.bfloat16, tokens, torch.int8)

    assert (got - want).norm() / want.norm() < 6e-2


@pytest.mark.parametrize(("name", "cost"), [("int8", 0.05), ("w8a8", 0.08), ("int4", 0.5)])
def test_rounding_costs_what_it_must_and_no_more(tmp_path: Path, name: str, cost: float) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    tokens, whole = continued(folder, reference, torch.float64)

    ops = operations_for("cpu", torch.float32, WEIGHT_FORMATS[name])
    _, got = continued(folder, ops, torch.float32, tokens)

    assert cost / 20 < (got - whole).norm() / whole.norm() < cost


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize(
    "library", [lambda: None, lambda: load_library().library], ids=["torch", "C"]
)
def test_logits_in_float32_do_not_depend_on_how_a_prompt_is_cut(
    tmp_path: Path, name: str, library: Callable[[], None]
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, "mixtral"))
    ops = bind(table_of_cpu(torch.float32, library()), WEIGHT_FORMATS[name])
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
    tmp_path: Path,
) -> None:
    ops = in_torch(torch.bfloat16, WEIGHT_FORMATS["int4"])

    tokens, _ = continued(write_checkpoint(tmp_path, "mixtral"), ops, torch.bfloat16)

    assert len(tokens) == TOKENS
