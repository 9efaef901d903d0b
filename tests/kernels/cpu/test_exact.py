"""In float32 a token's results are the same to the bit, whatever else is in the step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import checkpoints
from support.kernels.attention_scenes import assert_close, options_of, scene

from kernels.cpu import exact
from kernels.ops import AttentionChunks, AttentionShape, Routing
from kernels.reference.operations import reference
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

ROWS = 70
COUNTS = [1, 2, 3, 5, 16, 17, 33, 64, 65]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("inputs", "outputs"), [(60, 115), (257, 96), (256, 1024), (1500, 20)])
def test_a_product_gives_a_row_the_same_bits_among_any_others(
    count: int, inputs: int, outputs: int
) -> None:
    linear = exact.pack_linear(torch.randn(outputs, inputs), torch.randn(outputs))
    x = torch.randn(ROWS, inputs)

    assert torch.equal(linear(x[ROWS - count :]), linear(x)[ROWS - count :])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("width", [20, 60, 257])
def test_row_operations_give_a_row_the_same_bits_among_any_others(count: int, width: int) -> None:
    x, weight, few = torch.randn(ROWS, 2 * width), torch.randn(2 * width), slice(0, count)

    assert torch.equal(exact.silu_mul(x[few]), exact.silu_mul(x)[few])
    normed = exact.rms_norm(x, weight, 1e-5)[0]
    assert torch.equal(exact.rms_norm(x[few], weight, 1e-5)[0], normed[few])


@pytest.mark.parametrize("inner", [13, 1800])
@pytest.mark.parametrize("count", COUNTS)
def test_experts_give_a_row_the_same_bits_among_any_others(count: int, inner: int) -> None:
    router, gate_up, down = (
        torch.randn(5, 20),
        torch.randn(5, 2 * inner, 20),
        torch.randn(5, 20, inner),
    )
    packed = exact.pack_experts(router, gate_up, down, Routing(2, True))
    x = torch.randn(ROWS, 20)

    assert torch.equal(packed(x[:count]), packed(x)[:count])


def test_attention_equals_the_oracle_for_decodes_and_chunks() -> None:
    shape = AttentionShape(heads=6, kv_heads=3, head_dim=20, scale=20**-0.5)
    table = torch.randperm(120, dtype=torch.int32).view(3, 40)
    chunks = AttentionChunks(
        slot_table=table,
        rows=torch.tensor([2, 0, 1]),
        q_starts=torch.tensor([0, 1, 8, 21]),
        kv_lengths=torch.tensor([33, 7, 29]),
        num_decodes=1,
    )
    q, k, v = torch.randn(21, 6, 20), torch.randn(120, 3, 20), torch.randn(120, 3, 20)

    got = exact.attention(q, k, v, exact.plan_attention(chunks, shape, torch.float32))
    plan = reference.plan_attention(chunks, shape, torch.float64)
    want = reference.attention(q.double(), k.double(), v.double(), plan)

    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 1e-6


@pytest.mark.parametrize("names", ["alibi", "window+sinks", "soft_cap"])
def test_options_give_a_decode_the_bits_of_the_same_token_in_a_chunk(names: str) -> None:
    step = scene("cpu", [(9, 30)], dtype=torch.float32)
    last = replace(
        step.chunks, q_starts=torch.tensor([0, 1]), num_decodes=1, kv_lengths=torch.tensor([30])
    )
    options = options_of("cpu", step.shape.heads, names)

    def attend(q: torch.Tensor, chunks: AttentionChunks) -> torch.Tensor:
        plan = exact.plan_attention(chunks, step.shape, torch.float32, options)
        return exact.attention(q, step.k_cache, step.v_cache, plan)

    whole = attend(step.q, step.chunks)
    assert torch.equal(attend(step.q[-1:], last), whole[-1:])
    assert_close(whole, step.expected(options), torch.float32)


class Runs:
    """A decoder and sequences that are computed in steps of any make-up."""

    SLOTS = 512

    def __init__(self, folder, family: str) -> None:
        checkpoint = read_checkpoint(checkpoints.write_checkpoint(folder, family))
        ops = operations_for("cpu", torch.float32)
        weights = load_weights(checkpoint, ops, torch.float32)
        self.decoder = Decoder(checkpoint.spec, weights, ops, torch.float32)
        rng = np.random.default_rng(0)
        self.tokens = [rng.integers(3, 250, length) for length in (1, 17, 40, 90)]
        self.kv = KvCache(checkpoint.spec, self.SLOTS, torch.float32)
        self.table = rng.permutation(self.SLOTS).astype(np.int32).reshape(4, -1)

    def run(self, steps: list[list[tuple[int, int, int]]]) -> list[torch.Tensor]:
        """Compute (sequence, start, stop) chunks step by step; return each sequence's logits."""
        logits: list[list[torch.Tensor]] = [[] for _ in self.tokens]
        for step in steps:
            owners, starts, stops = (np.array(column) for column in zip(*step, strict=True))
            ids = np.concatenate([self.tokens[o][a:b] for o, a, b in step])
            batch = Batch.build(ids, owners, starts, stops - starts, self.table)
            rows = self.decoder.logits(self.decoder.forward(batch, self.kv))
            for owner, part in zip(owners, rows.split((stops - starts).tolist()), strict=True):
                logits[owner].append(part)
        return [torch.cat(parts) for parts in logits]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral"])
def test_a_sequence_has_the_same_logits_alone_and_in_company_however_it_is_cut(
    tmp_path, family: str
) -> None:
    runs = Runs(tmp_path, family)
    lengths = [len(tokens) for tokens in runs.tokens]

    whole = runs.run([[(i, 0, n)] for i, n in enumerate(lengths)])
    token_by_token = runs.run([[(i, p, p + 1)] for i, n in enumerate(lengths) for p in range(n)])
    together = runs.run(
        [
            [(i, p, min(p + size, lengths[i])) for i, size in sizes if p < lengths[i]]
            for sizes, p in [
                *(([(3, 30), (2, 30)], p) for p in (0, 30, 60)),
                *(([(0, 1), (1, 1)], p) for p in range(17)),
            ]
        ]
    )

    for i in range(4):
        assert torch.equal(whole[i], token_by_token[i])
        assert torch.equal(whole[i], together[i])
