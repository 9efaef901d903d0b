"""Time the CPU device's compiled operations beside PyTorch's and beside what the machine can do.

`python -m bench.cpu_operations` prints ratios of one run: every operation is timed in turn with its
rival and with its limit, and medians are compared, since other processes come and go. A limit is
the time to read the operation's bytes at the speed of a large sum, or to multiply as much in a
large product. Shapes are those of a dense model of 466 million parameters. Memory is asked for in
large pages, and threads wait, as in the model's process.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

# As model_svc does, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch.nn import functional

from bench.machine import describe
from kernels.bound import bind
from kernels.c.library import load_library
from kernels.ops import AttentionChunks, AttentionShape, Operations, Routing
from kernels.select import table_of_cpu

LAYERS = 24
HIDDEN = 1280
INTERMEDIATE = 3584
SHAPE = AttentionShape(heads=20, kv_heads=4, head_dim=64, scale=64**-0.5)
DTYPE = torch.bfloat16
COPIES = 6
"""Layers of a kind, so that none finds its weights in the cache."""
_READ_BYTES = 1 << 28
_PRODUCT = (512, 2048, 2048)

Timed = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """An operation as both sets compute it.

    Attributes:
        name: what is printed.
        ours: computes it in C.
        theirs: computes it in PyTorch.
        limit_bytes: what has to be read.
        limit_flops: what has to be multiplied and added, two for each pair.
    """

    name: str
    ours: Timed
    theirs: Timed
    limit_bytes: float = 0.0
    limit_flops: float = 0.0


def chunks_of(counts: Sequence[int], lengths: Sequence[int]) -> AttentionChunks:
    """Chunks whose slots are permuted over a cache without room to spare."""
    table = torch.zeros((len(lengths), max(lengths)), dtype=torch.int32)
    free = torch.randperm(sum(lengths)).to(torch.int32)
    for row, own in zip(table, torch.split(free, list(lengths)), strict=True):
        row[: len(own)] = own
    decodes = len(counts) if max(counts) == 1 else 0
    return AttentionChunks(
        slot_table=table,
        rows=torch.arange(len(lengths)),
        q_starts=torch.tensor([0, *counts]).cumsum(0),
        kv_lengths=torch.tensor(lengths),
        num_decodes=decodes,
    )


@lru_cache(maxsize=1)
def theirs() -> Operations:
    """The operations in PyTorch."""
    return bind(table_of_cpu(DTYPE, None))


def attention_case(name: str, ours: Operations, counts: list[int], lengths: list[int]) -> Case:
    """Attention of all layers, each with caches of its own, as a step computes it."""
    chunks = chunks_of(counts, lengths)
    caches = torch.randn(LAYERS, 2, sum(lengths), SHAPE.kv_heads, SHAPE.head_dim, dtype=DTYPE)
    q = torch.randn(sum(counts), SHAPE.heads + 8, SHAPE.head_dim, dtype=DTYPE)[:, : SHAPE.heads]

    def attend(operations: Operations) -> Timed:
        plan = operations.plan_attention(chunks, SHAPE, DTYPE)
        return lambda: [operations.attention(q, k, v, plan) for k, v in caches]

    seen = sum(c * n - c * (c - 1) // 2 for c, n in zip(counts, lengths, strict=True))
    flops = 4.0 * LAYERS * seen * SHAPE.heads * SHAPE.head_dim
    read = float(caches.numel() * caches.itemsize)
    if max(counts) == 1:
        return Case(name, attend(ours), attend(theirs()), limit_bytes=read)
    return Case(name, attend(ours), attend(theirs()), limit_flops=flops)


def row_cases(ours: Operations, tokens: int) -> Iterator[Case]:
    """The operations on rows, for a step of so many tokens."""
    x, residual = torch.randn(2, tokens, HIDDEN, dtype=DTYPE)
    weight, gate_up = torch.ones(HIDDEN, dtype=DTYPE), torch.randn(tokens, 2 * INTERMEDIATE)
    gate_up = gate_up.to(DTYPE)
    heads = torch.randn(tokens, SHAPE.heads + 2 * SHAPE.kv_heads, SHAPE.head_dim, dtype=DTYPE)
    table, positions = torch.rand(4096, SHAPE.head_dim), torch.arange(tokens)
    turned = heads[:, : SHAPE.heads + SHAPE.kv_heads]
    k, v = heads[:, -2 * SHAPE.kv_heads :].chunk(2, dim=1)
    slots = torch.randperm(4 * tokens)[:tokens]
    caches = torch.zeros(2, 4 * tokens, SHAPE.kv_heads, SHAPE.head_dim, dtype=DTYPE)

    def case(name: str, call: Callable[[Operations], Timed]) -> Case:
        return Case(f"{name}, {tokens} tokens", call(ours), call(theirs()))

    def turn(operations: Operations) -> Timed:
        angles = operations.rope_angles(table, positions)
        return lambda: operations.rope(turned, angles)

    yield case("rms_norm", lambda ops: lambda: ops.rms_norm(x, weight, 1e-5, residual))
    yield case("rope", turn)
    yield case("store_kv", lambda ops: lambda: ops.store_kv(k, v, slots, *caches))
    yield case("silu_mul", lambda ops: lambda: ops.silu_mul(gate_up))


def product_case(ours: Operations, tokens: int, inputs: int, outputs: int) -> Case:
    """A product whose weights come from memory, unless a whole small model stays in the cache."""
    copies = COPIES if inputs >= HIDDEN else 1
    x = torch.randn(tokens, inputs, dtype=DTYPE)
    weights = [torch.randn(outputs, inputs, dtype=DTYPE) for _ in range(copies)]

    def multiply(operations: Operations) -> Timed:
        layers = [operations.pack_linear(weight, None) for weight in weights]
        return lambda: [layer(x) for layer in layers]

    name = f"product {inputs} x {outputs}, {tokens} tokens"
    flops = 2.0 * tokens * inputs * outputs * copies
    return Case(name, multiply(ours), multiply(theirs()), limit_flops=flops)


def experts_case(ours: Operations, tokens: int, hidden: int, intermediate: int) -> Case:
    """Eight experts, two a token; layers as for products."""
    copies = COPIES if hidden >= 1024 else 1
    x, routing = torch.randn(tokens, hidden, dtype=DTYPE), Routing(top_k=2, renormalise=True)
    layers = [
        (
            torch.randn(8, hidden, dtype=DTYPE),
            torch.randn(8, 2 * intermediate, hidden, dtype=DTYPE) / hidden**0.5,
            torch.randn(8, hidden, intermediate, dtype=DTYPE) / intermediate**0.5,
        )
        for _ in range(copies)
    ]

    def compute(operations: Operations) -> Timed:
        packed = [operations.pack_experts(*layer, routing) for layer in layers]
        return lambda: [experts(x) for experts in packed]

    name = f"experts {hidden} x {intermediate}, {tokens} tokens"
    flops = 2.0 * 3 * 2 * tokens * hidden * intermediate * copies
    return Case(name, compute(ours), compute(theirs()), limit_flops=flops)


def as_served(ours: Operations, compute: Timed) -> Timed:
    """The same as one call, where the set captures; `compute` gives tensors."""
    captured = ours.capture(lambda: compute()[-1])
    return compute if captured is None else captured.replay


def products_of_a_step(ours: Operations, tokens: int) -> Timed:
    """The four products of every layer, each with weights of its own."""
    sizes = [
        (HIDDEN, (SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim),
        (SHAPE.heads * SHAPE.head_dim, HIDDEN),
        (HIDDEN, 2 * INTERMEDIATE),
        (INTERMEDIATE, HIDDEN),
    ]
    layers = [
        (torch.randn(tokens, inputs, dtype=DTYPE), ours.pack_linear(weight, None))
        for _ in range(LAYERS)
        for inputs, outputs in sizes
        for weight in [torch.randn(outputs, inputs, dtype=DTYPE)]
    ]
    return lambda: [product(x) for x, product in layers]


def median_times(calls: Sequence[Timed], rounds: int) -> list[float]:
    """Call all in turn, `rounds` times; the median seconds of each."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [statistics.median(own[1:]) for own in times]


def measure(case: Case, rounds: int) -> str:
    """A line of the table."""
    limit, share_of_case, name = limit_of(case)
    ours, theirs, *at_limit = median_times([case.ours, case.theirs, *limit], rounds)
    line = f"{case.name:32} {ours * 1e3:9.3f} ms   PyTorch's x {theirs / ours:5.2f}"
    return line + "".join(f"   {s * share_of_case / ours:4.0%} of {name}" for s in at_limit)


def limit_of(case: Case) -> tuple[list[Timed], float, str]:
    """The machine's rate for a case's kind, the case's amount of it, and its name."""
    if case.limit_bytes:
        buffer = torch.ones(_READ_BYTES // 8, dtype=torch.int64)
        return [buffer.sum], case.limit_bytes / _READ_BYTES, "reading its bytes"
    if case.limit_flops:
        flops = 2.0 * math.prod(_PRODUCT)
        return [fastest_product()], case.limit_flops / flops, "a product's rate"
    return [], 0.0, ""


@lru_cache(maxsize=1)
def fastest_product() -> Timed:
    """PyTorch's product of bfloat16, or of float32 where the processor multiplies only that."""
    m, n, k = _PRODUCT
    products = [
        partial(functional.linear, torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype))
        for dtype in (DTYPE, torch.float32)
    ]
    times = median_times(products, 3)
    return products[times.index(min(times))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_operations", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="times that each is called")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    library = load_library().library
    if library is None:
        raise SystemExit(load_library().why_not)
    ours = bind(table_of_cpu(DTYPE, library))
    load = os.getloadavg()[0]
    print(f"{describe()}, {library.level}, {arguments.threads} threads, load {load:.1f}")
    with torch.inference_mode():
        for case in every_case(ours):
            print(measure(case, arguments.rounds), flush=True)
        for length in (160, 512):
            print(share_of_attention(ours, length, arguments.rounds), flush=True)
        print(share_of_reading(ours, arguments.rounds), flush=True)


def every_case(ours: Operations) -> Iterator[Case]:
    """Cases, made one after the other: they would not all fit into memory."""
    for tokens in (1, 32, 512):
        yield from row_cases(ours, tokens)
    for streams, length in ((1, 512), (8, 512), (32, 160), (32, 512), (1, 8192)):
        name = f"decode, {streams} x {length}"
        yield attention_case(name, ours, [1] * streams, [length] * streams)
    for tokens in (1, 8, 32, 512):
        for inputs, outputs in ((256, 1280), (HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN)):
            yield product_case(ours, tokens, inputs, outputs)
        for hidden, intermediate in ((256, 96), (1024, 1792)):
            yield experts_case(ours, tokens, hidden, intermediate)
    yield attention_case("prompt, 512", ours, [512], [512])
    yield attention_case("prompt, 512 after 3584", ours, [512], [4096])
    yield attention_case("prompts, 8 x 64", ours, [64] * 8, [64] * 8)


def share_of_attention(ours: Operations, length: int, rounds: int) -> str:
    """Share of attention in a decode step of 32 streams."""
    attend = as_served(ours, attention_case("", ours, [1] * 32, [length] * 32).ours)
    multiply = as_served(ours, products_of_a_step(ours, 32))
    attention, products = median_times([attend, multiply], rounds)
    share = attention / (attention + products)
    return f"attention is {share:.0%} of attention and products, 32 x {length}"


def share_of_reading(ours: Operations, rounds: int) -> str:
    """Rate at which the weights of a lone token's products are read."""
    kv = 2 * SHAPE.kv_heads * SHAPE.head_dim
    of_layer = HIDDEN * (2 * SHAPE.heads * SHAPE.head_dim + kv + 3 * INTERMEDIATE)
    bytes_read = LAYERS * of_layer * DTYPE.itemsize
    buffer = torch.ones(bytes_read // 8, dtype=torch.int64)
    products, sums = median_times(
        [as_served(ours, products_of_a_step(ours, 1)), buffer.sum], rounds
    )
    rate = bytes_read / products / 1e9
    return f"products of a lone token: {rate:.1f} GB/s, {sums / products:.0%} of a sum's"


if __name__ == "__main__":
    main()
