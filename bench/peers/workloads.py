"""Workloads: three random models, and the cells measured on each.

Invariant: every server gets the same prompts in the same order, and each answer has one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.random_checkpoint import DecoderShape
from bench.tiny_checkpoint import TINY as TINY_SHAPE

PROMPT_TOKENS = 110
LONG_PROMPT_TOKENS = 896
CONTEXT = 1024  # the longest sequence of any cell fits
PREFILL = "prefill"
_REQUESTS_PER_STREAM = 3
_FEWEST_REQUESTS = 8
_PREFILL_REQUESTS = 6


@dataclass(frozen=True)
class Workload:
    """A model and the load put on it.

    Attributes:
        name: of the model's folder, and on the command line.
        title: in tables.
        shape: of the decoder.
        output_tokens: length of every answer.
        streams: numbers of streams at a time.
    """

    name: str
    title: str
    shape: DecoderShape
    output_tokens: int
    streams: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One closed loop.

    Attributes:
        name: the number of streams, or `prefill`.
        streams: requests in flight.
        requests: how many in all.
        long_prompts: whether prompts are long.
        output_tokens: length of every answer.
    """

    name: str
    streams: int
    requests: int
    long_prompts: bool
    output_tokens: int


DENSE = Workload(
    "dense",
    "dense 466M",
    DecoderShape(
        layers=24,
        hidden=1280,
        heads=20,
        kv_heads=4,
        head_dim=64,
        intermediate=3584,
        vocabulary=32000,
    ),
    64,
    (1, 8, 32),
)
MOE = Workload(
    "moe",
    "MoE 626M",
    DecoderShape(
        layers=12,
        hidden=1024,
        heads=16,
        kv_heads=4,
        head_dim=64,
        intermediate=1792,
        vocabulary=32000,
        experts=8,
        experts_per_token=2,
        tied=False,
    ),
    64,
    (1, 8, 32),
)
TINY = Workload("tiny", "tiny 5.8M", TINY_SHAPE, 128, (1, 8, 32, 64))
WORKLOADS = {one.name: one for one in (DENSE, MOE, TINY)}


def cells(workload: Workload, streams: Sequence[int] | None, *, quick: bool) -> list[Cell]:
    """The cells of a workload, the prefill of long prompts last.

    Args:
        workload: whose.
        streams: numbers of streams; None: the workload's own.
        quick: two requests a stream, four at least, and two long prompts.
    """
    each, fewest = (2, 4) if quick else (_REQUESTS_PER_STREAM, _FEWEST_REQUESTS)
    made = [
        Cell(str(count), count, max(fewest, each * count), False, workload.output_tokens)
        for count in streams or workload.streams
    ]
    prefills = 2 if quick else _PREFILL_REQUESTS
    return [*made, Cell(PREFILL, 1, prefills, True, 1)]
