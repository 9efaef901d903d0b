"""Time quantised weights beside whole ones on a CPU: products by themselves, and steps of a model.

`python -m bench.cpu_quantised` prints ratios of one run and writes bench/results/cpu_quantised.md.
Forms are timed in turn, and medians are compared, since other processes come and go. The models are
the large ones of `bench.peers`, computed by the decoder that serves, without the services around
it. Memory is asked for in large pages, and threads wait as the model's process has them do.
Invariant: all forms get the same inputs in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np

# As model_svc does, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from bench.machine import describe
from bench.peers.workloads import DENSE, MOE
from bench.random_checkpoint import write_checkpoint
from kernels.c.library import load_library
from kernels.formats import WEIGHT_FORMATS
from kernels.ops import Operations
from kernels.select import operations_for
from model_svc.engine.graph_cache import GraphCache
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import Checkpoint, read_checkpoint
from model_svc.weights.loader import load_weights

RESULTS = Path(__file__).resolve().parent / "results" / "cpu_quantised.md"
DTYPE = torch.bfloat16
MODELS = (DENSE, MOE)
SHAPES = ((7168, 1280), (1280, 3584))
TOKENS = (1, 8, 32, 512)
CONTEXT = 128
_COLD_WEIGHTS = 80_000_000  # numbers that the caches do not hold

Timed = Callable[[], object]


def ratios(calls: Mapping[str, Timed], rounds: int) -> str:
    """Call all in turn, `rounds` times; a line of the first one's time over each other's.

    Each ratio is the median of those of the rounds, with the middle half of them in brackets.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    (first, whole), *others = ((name, own[1:]) for name, own in times.items())
    parts = [f"{first} {statistics.median(whole) * 1e3:8.2f} ms"]
    for name, own in others:
        low, middle, high = statistics.quantiles(
            [a / b for a, b in zip(whole, own, strict=True)], n=4
        )
        parts.append(f"{name} x {middle:4.2f} ({low:4.2f}-{high:4.2f})")
    return "   ".join(parts)


def sets_of_operations() -> dict[str, Operations]:
    """The whole weights' operations first."""
    return {
        "bfloat16" if name == "none" else name: operations_for("cpu", DTYPE, weights)
        for name, weights in WEIGHT_FORMATS.items()
    }


def product_lines(rounds: int) -> Iterator[str]:
    """Each shape, for each number of tokens; weights come from memory, not from caches."""
    sets = sets_of_operations()
    for outputs, inputs in SHAPES:
        copies = max(1, _COLD_WEIGHTS // (outputs * inputs))
        layers = {
            name: [
                ops.pack_linear(torch.randn(outputs, inputs, dtype=DTYPE), None)
                for _ in range(copies)
            ]
            for name, ops in sets.items()
        }
        for tokens in TOKENS:
            x = torch.randn(tokens, inputs, dtype=DTYPE)
            calls = {
                name: lambda own=own, x=x: [layer(x) for layer in own]
                for name, own in layers.items()
            }
            yield f"{copies} x {outputs} x {inputs}, {tokens:3} tokens   {ratios(calls, rounds)}"


def step(decoder: Decoder, kv: KvCache, counts: Sequence[int], cached: int) -> Timed:
    """A step of sequences that have so many tokens cached, as it is served; one chunk each."""
    rows, starts = np.arange(len(counts)), np.full(len(counts), cached)
    longest = cached + max(counts)
    table = np.random.default_rng(0).permutation(len(counts) * longest).astype(np.int32)
    ids = np.arange(sum(counts)) % 1000
    slot_table = table.reshape(len(counts), longest)
    steps = GraphCache(decoder, kv, slot_table)
    if max(counts) == 1:
        return lambda: steps.decode(ids, rows, starts, slot_table[:, cached])
    batch = Batch.build(ids, rows, starts, np.array(counts), slot_table)
    finals = batch.finals(rows.tolist())
    return lambda: steps.logits(batch, finals)


def model_lines(title: str, checkpoint: Checkpoint, rounds: int) -> Iterator[str]:
    """Decode steps of 1 and 8 streams, and a prompt."""
    decoders = {}
    for name, ops in sets_of_operations().items():
        start = time.perf_counter()
        weights = load_weights(checkpoint, ops, DTYPE)
        decoders[name] = Decoder(checkpoint.spec, weights, ops, DTYPE)
        yield f"{title}, {name}: loaded in {time.perf_counter() - start:.1f} s"
    kv = KvCache(checkpoint.spec, 8 * (CONTEXT + 1), DTYPE)
    for name, counts, cached in (
        ("1 stream", [1], CONTEXT),
        ("8 streams", [1] * 8, CONTEXT),
        ("a prompt of 512", [512], 0),
    ):
        calls = {form: step(decoder, kv, counts, cached) for form, decoder in decoders.items()}
        yield f"{title}, step of {name}   {ratios(calls, rounds)}"


def main() -> None:
    """Print the lines and keep them."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_quantised", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="times that each is called")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    library = load_library().library
    level = load_library().why_not if library is None else library.level
    load = os.getloadavg()[0]
    machine = f"{describe()}, {level}, {arguments.threads} threads, load {load:.1f}"
    lines = []
    for line in every_line(arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    arguments.out.write_text(page(machine, lines), encoding="utf-8")


def every_line(rounds: int) -> Iterator[str]:
    """Cases: products, then steps of the models."""
    yield from product_lines(rounds)
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), model.shape)
            yield from model_lines(model.title, read_checkpoint(Path(folder)), rounds)


def page(machine: str, lines: Sequence[str]) -> str:
    """The page of results."""
    return "\n".join(
        [
            "# Quantised weights on a CPU",
            "",
            f"{date.today()}, {machine}; `python -m bench.cpu_quantised`.",
            "Ratios to bfloat16 in the same rounds, medians with the middle half in brackets.",
            "Steps are the decoder's alone, of models with random parameters, with 128 tokens",
            "cached. The machine is shared with other work.",
            "",
            "```",
            *lines,
            "```",
            "",
        ]
    )


if __name__ == "__main__":
    main()
