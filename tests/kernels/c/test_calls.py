"""Captured computations in C: to the bit what the same calls give at once, on any threads."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from support.kernels.captured_layers import EPS, HEAD_DIM, KV_HEADS, captured, run_layer, step_of
from support.kernels.operations import QUANTISED, compiled

from kernels.attention_options import AttentionOptions, Int8Rows
from kernels.c.attention import GROWTH
from kernels.c.calls import CapturedCalls
from kernels.c.library import Library
from kernels.c.quantised import QuantisedLinear
from kernels.formats import WEIGHT_FORMATS, KvInt8
from kernels.ops import Operations, Outgrown, Routing

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SLOT = torch.tensor([1])


@pytest.fixture
def operations(native_library: Library) -> Operations:
    """A set of its own: what others packed decides whether a set captures."""
    return compiled(native_library)


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """What is not a number too."""
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_replay_gives_what_the_calls_give_at_once(
    operations: Operations, dtype: torch.dtype
) -> None:
    step, uncaptured = step_of(dtype), step_of(dtype)
    taken = captured(operations, lambda: run_layer(operations, step))
    for seed in range(4):
        want = run_layer(operations, uncaptured)

        assert torch.equal(taken.replay(), want)
        assert want.isfinite().all()
        assert all(map(same_bits, step.caches(), uncaptured.caches()))
        step.draw_again(seed)
        uncaptured.draw_again(seed)


def test_nothing_is_computed_before_a_replay(operations: Operations) -> None:
    step = step_of(torch.bfloat16)
    before = [cache.clone() for cache in step.caches()]
    heads, weight = torch.randn(3, 4, HEAD_DIM), torch.randn(4, HEAD_DIM)
    was = heads.clone()

    def compute() -> torch.Tensor:
        operations.norm_heads(heads, weight, EPS)
        return run_layer(operations, step)

    taken = captured(operations, compute)

    assert torch.equal(heads, was)
    assert all(map(same_bits, step.caches(), before))
    taken.replay()
    assert not torch.equal(heads, was)
    assert not any(map(same_bits, step.caches(), before))


def test_a_capture_outlives_the_set_and_the_weights_it_was_made_of(
    native_library: Library,
) -> None:
    def scene() -> tuple[CapturedCalls, torch.Tensor]:
        operations = compiled(native_library)
        weights = QuantisedLinear(
            operations.recorder, torch.randn(64, 64), None, WEIGHT_FORMATS["int8"]
        )
        x = torch.randn(200, 64).bfloat16()

        def compute() -> torch.Tensor:
            return operations.silu_mul(weights(x))

        return captured(operations, compute), compute()

    taken, want = scene()
    gc.collect()
    elsewhere = [torch.full((1 << 14,), torch.nan) for _ in range(20)]

    assert torch.equal(taken.replay(), want)
    assert all(other.isnan().all() for other in elsewhere)


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_layers_are_captured(operations: Operations, name: str) -> None:
    up, down = (
        QuantisedLinear(
            operations.recorder, torch.randn(shape), torch.randn(shape[0]), WEIGHT_FORMATS[name]
        )
        for shape in ((90, 70), (33, 45))
    )
    x = torch.randn(9, 80).bfloat16()
    taken = captured(operations, lambda: down(operations.silu_mul(up(x[:, 5:75]))))
    for _ in range(3):
        assert torch.equal(taken.replay(), down(operations.silu_mul(up(x[:, 5:75]))))
        x.normal_()


def test_products_and_experts_are_captured(operations: Operations) -> None:
    linear = operations.pack_linear(torch.randn(64, 70).bfloat16(), torch.randn(64).bfloat16())
    weights = [torch.randn(shape).bfloat16() / 8 for shape in ((5, 64), (5, 62, 64), (5, 64, 31))]
    experts = operations.pack_experts(*weights, Routing(2, True))
    x = torch.randn(11, 70).bfloat16()
    taken = captured(operations, lambda: experts(linear(x)))
    for _ in range(3):
        assert torch.equal(taken.replay(), experts(linear(x)))
        x.normal_()


def test_a_set_whose_products_are_pytorchs_captures_nothing(operations: Operations) -> None:
    linear = operations.pack_linear(torch.randn(64, 70).half(), None)
    asked = []

    assert operations.capture(lambda: asked.append(1) or linear(torch.ones(1, 70))) is None
    assert not asked


def test_int8_caches_are_captured(native_library: Library) -> None:
    ops = compiled(native_library, caches=KvInt8())
    step = step_of(torch.bfloat16)
    k, v = torch.randn(2, len(step.slots), KV_HEADS, HEAD_DIM).bfloat16()
    of = step.attention

    def caches() -> list[Int8Rows]:
        torch.manual_seed(2)
        shape = (len(of.k_cache), KV_HEADS, HEAD_DIM)
        return [
            Int8Rows(torch.randint(-127, 128, shape).to(torch.int8), torch.rand(shape[:2]).half())
            for _ in range(2)
        ]

    def compute(ours: list[Int8Rows]) -> torch.Tensor:
        ops.store_kv(k, v, step.slots, *ours)
        plan = ops.plan_attention(of.chunks, of.shape, torch.bfloat16)
        return ops.attention(of.q, *ours, plan)

    ours, theirs = caches(), caches()
    taken = captured(ops, lambda: compute(ours))
    for _ in range(2):
        assert torch.equal(taken.replay(), compute(theirs))
        for mine, others in zip(ours, theirs, strict=True):
            assert torch.equal(mine.rows, others.rows)
            assert torch.equal(mine.scales, others.scales)
        k.normal_()


def test_captured_computations_share_memory_and_not_results(operations: Operations) -> None:
    small, large = (torch.randn(rows, 64) for rows in (3, 300))

    def twice(x: torch.Tensor) -> torch.Tensor:
        return operations.silu_mul(operations.silu_mul(x))

    first, second = (captured(operations, lambda x=x: twice(x)) for x in (small, large))
    for _ in range(3):
        # A result is good until the next replay.
        assert torch.equal(first.replay(), twice(small))
        assert torch.equal(second.replay(), twice(large))
        small.normal_()
        large.normal_()


FOREIGN: dict[str, Callable[[Operations], torch.Tensor]] = {
    "silu_mul of columns": lambda ops: ops.silu_mul(torch.ones(6, 4).T),
    "silu_mul in float64": lambda ops: ops.silu_mul(torch.ones(6, 4).double()),
    "rms_norm of columns": lambda ops: ops.rms_norm(torch.ones(6, 4).T, torch.ones(6), EPS)[0],
    "rms_norm in float64": lambda ops: ops.rms_norm(
        torch.ones(6, 4).double(), torch.ones(4).double(), EPS
    )[0],
    "norm_heads of heads that lie apart": lambda ops: _in_place(
        torch.ones(2, 4, 6).transpose(1, 2),
        lambda heads: ops.norm_heads(heads, torch.ones(6, 4), EPS),
    ),
    "rope in float64": lambda ops: _in_place(
        torch.ones(2, 4, 6).double(), lambda heads: ops.rope(heads, torch.ones(2, 6))
    ),
    "store_kv of columns": lambda ops: _in_place(
        torch.zeros(9, 2, 4),
        lambda cache: ops.store_kv(*[torch.ones(1, 4, 2).mT] * 2, SLOT, cache, cache),
    ),
    "take_rows by int32": lambda ops: ops.take_rows(torch.ones(4, 3), torch.tensor([1]).int()),
    "layer_norm, which is not compiled": lambda ops: ops.layer_norm(
        torch.ones(4, 6).bfloat16(), torch.ones(6).bfloat16(), None, EPS
    )[0],
    "attention with options": lambda ops: _window(ops),
    "take_rows of columns": lambda ops: ops.take_rows(torch.ones(4, 3).T, torch.tensor([1])),
}


def _window(ops: Operations) -> torch.Tensor:
    of = step_of(torch.bfloat16).attention
    plan = ops.plan_attention(of.chunks, of.shape, torch.bfloat16, AttentionOptions(window=3))
    return ops.attention(of.q, of.k_cache, of.v_cache, plan)


def _in_place(x: torch.Tensor, change: Callable[[torch.Tensor], None]) -> torch.Tensor:
    change(x)
    return x


@pytest.mark.parametrize("name", FOREIGN)
def test_what_pytorch_computes_is_not_captured(operations: Operations, name: str) -> None:
    compute = FOREIGN[name]
    step = step_of(torch.bfloat16)
    went_on = []

    def both() -> torch.Tensor:
        run_layer(operations, step)
        compute(operations)
        went_on.append(name)
        return run_layer(operations, step)

    assert operations.capture(both) is None

    assert not went_on
    assert compute(operations).isfinite().all()
    want = run_layer(operations, step).clone()
    assert torch.equal(captured(operations, lambda: run_layer(operations, step)).replay(), want)


def test_products_of_columns_are_not_captured(operations: Operations) -> None:
    columns = torch.ones(6, 3).bfloat16().T
    layers = [
        QuantisedLinear(operations.recorder, torch.ones(4, 6), None, WEIGHT_FORMATS["int8"]),
        operations.pack_linear(torch.ones(4, 6).bfloat16(), None),
    ]
    for layer in layers:
        assert operations.capture(lambda layer=layer: layer(columns)) is None
        assert (layer(columns) == 6).all()


def test_an_error_while_capturing_leaves_all_as_it_was(operations: Operations) -> None:
    step = step_of(torch.bfloat16)

    def broken() -> torch.Tensor:
        run_layer(operations, step)
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        operations.capture(broken)
    with pytest.raises(ValueError, match="of other memory"):
        operations.capture(lambda: torch.ones(2, 3))

    assert not operations.recorder.capturing
    want = run_layer(operations, step)
    assert torch.equal(captured(operations, lambda: run_layer(operations, step)).replay(), want)


def test_sequences_may_grow_until_they_outgrow_the_workspace(
    operations: Operations,
) -> None:
    long = 16 * 600
    step = step_of(torch.bfloat16, [(1, 3), (1, long)])
    of, lengths = step.attention, step.attention.chunks.kv_lengths
    lengths[1] = 600
    rows, cache = torch.ones(1, 1, 8), torch.zeros(2, 1, 8)

    def compute() -> torch.Tensor:
        plan = operations.plan_attention(of.chunks, of.shape, torch.bfloat16)
        operations.store_kv(rows, rows, SLOT, cache, cache)
        return operations.attention(of.q, of.k_cache, of.v_cache, plan)

    taken = captured(operations, compute)
    for length in (600, 601, 600 * GROWTH, 2):
        lengths[1] = length
        assert torch.equal(taken.replay(), compute())

    cache.zero_()
    lengths[1] = long
    for _ in range(2):
        with pytest.raises(Outgrown):
            taken.replay()
        assert not cache.any()
    assert torch.equal(captured(operations, compute).replay(), compute())
    lengths[1] = 700
    assert torch.equal(taken.replay(), compute())


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_a_number_that_does_not_exist_stops_the_computation(
    operations: Operations, wrong: int
) -> None:
    table, rows, numbers = torch.randn(5, 1, 8), torch.randn(5, 1, 8), torch.tensor([4, 0])
    slots, cache = torch.tensor([3, 1]), torch.zeros(5, 1, 8)

    def compute() -> torch.Tensor:
        taken = operations.take_rows(table, numbers)
        operations.store_kv(taken, taken, slots, cache, cache)
        return operations.silu_mul(operations.take_rows(rows, numbers).flatten(1))

    taken = captured(operations, compute)
    result = taken.replay()
    want = result.clone()
    for place, name in ((numbers, "take_rows"), (slots, "store_kv")):
        cache.zero_()
        result.fill_(7)
        right, place[1] = int(place[1]), wrong
        with pytest.raises(IndexError, match=f"{name}: a token, position or slot"):
            taken.replay()
        assert (result == 7).all()
        assert not cache.any()
        place[1] = right
        assert torch.equal(taken.replay(), want)
