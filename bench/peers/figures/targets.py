"""Targets as data: a ratio of two servers in one round, or a share of a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.peers.figures import ratios
from bench.peers.figures.ratios import Metric, Spread, Turn
from bench.peers.workloads import WORKLOADS

_PEERS = ("vllm", "llama.cpp")
_BF16_BYTES = 2


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Attributes:
        model: on which.
        ours: the server that should.
        metric: what is measured of both.
        theirs: the server it is measured against.
        bound: of the ratio ours over theirs; None: it is only reported.
        sense: on which side of the bound it should be.
    """

    model: str
    ours: str
    metric: Metric
    theirs: str
    bound: float | None
    sense: Literal["at least", "at most"] = "at least"

    def measured(self, turns: Sequence[Turn]) -> Spread | None:
        """The ratio over the rounds; None where it was not measured."""
        ours = ratios.values(turns, self.model, self.ours, self.metric)
        theirs = ratios.values(turns, self.model, self.theirs, self.metric)
        return ratios.spread(ratios.quotients(ours, theirs))

    def met(self, ratio: float) -> bool | None:
        """True if `ratio` is on the right side; None if there is no bound."""
        if self.bound is None:
            return None
        return ratio >= self.bound if self.sense == "at least" else ratio <= self.bound


def targets() -> list[Target]:
    """All of them, in the order of the table."""
    return [
        *_throughput("dense", ((1, 1.3, 0.95), (8, 1.15, 1.5), (32, 1.05, 1.6))),
        *_throughput("moe", ((1, 1.5, 0.95), (8, 1.35, 1.5), (32, 1.6, 2.2))),
        *_throughput("tiny", ((1, 2.5, None), (8, 2.0, None), (32, 2.0, 2.0), (64, 2.0, 2.0))),
        *(one for model in ("dense", "moe") for one in _first_tokens(model)),
        *(one for model in ("dense", "moe") for one in _quantised(model)),
        *(one for model in ("dense", "moe") for one in _starts(model)),
    ]


def _throughput(
    model: str, rows: Sequence[tuple[int, float | None, float | None]]
) -> Iterator[Target]:
    for streams, *bounds in rows:
        metric = Metric("output_tokens_per_s", str(streams))
        for peer, bound in zip(_PEERS, bounds, strict=True):
            yield Target(model, "triptych", metric, peer, bound)


def _first_tokens(model: str) -> Iterator[Target]:
    for streams in WORKLOADS[model].streams:
        for peer, bound in zip(_PEERS, (0.9, 0.7), strict=True):
            metric = Metric("ttft_ms", str(streams))
            yield Target(model, "triptych", metric, peer, bound, "at most")


def _quantised(model: str) -> Iterator[Target]:
    lone = Metric("output_tokens_per_s", "1")
    yield Target(model, "triptych-int8", lone, "triptych", 1.7)
    yield Target(model, "triptych-int4", lone, "triptych", 2.5)
    yield Target(model, "triptych-int8", lone, "llama.cpp-q8_0", 0.95)
    yield Target(model, "triptych-int4", lone, "llama.cpp-q4_0", 0.95)
    yield Target(model, "triptych-w8a8", ratios.prefill(), "triptych", 1.4)


def _starts(model: str) -> Iterator[Target]:
    for peer, bound in zip(_PEERS, (0.1, 3.0), strict=True):
        yield Target(model, "triptych", Metric("start_s"), peer, bound, "at most")


@dataclass(frozen=True)
class Shares:
    """Distance of a server from the limits of the machine.

    Attributes:
        decode: bytes of the weights a token needs, over TPOT of a lone stream, over the rate at
            which memory is read.
        prefill: operations of a long prompt's products, over TTFT, over the rate of a product.
    """

    decode: Spread | None
    prefill: Spread | None


DECODE_SHARE = 0.92
PREFILL_SHARE = 0.85


def shares(turns: Sequence[Turn], model: str, server: str) -> Shares:
    """The shares of a server that runs bf16 weights.

    The decode of a lone stream multiplies each weight once; what attention reads is not counted.
    """
    shape = WORKLOADS[model].shape
    token_bytes = _BF16_BYTES * shape.decode_parameters
    token_ms = ratios.values(turns, model, server, Metric("tpot_ms", "1"))
    read = {number: token_bytes / ms / 1e6 for number, ms in token_ms.items()}
    rate = ratios.values(turns, model, server, ratios.prefill())
    per_token = 2 * shape.layer_parameters_per_token
    done = {number: per_token * tokens / 1e9 for number, tokens in rate.items()}
    return Shares(
        ratios.spread(ratios.quotients(read, ratios.limits(turns, model, "read_gb_per_s"))),
        ratios.spread(ratios.quotients(done, ratios.limits(turns, model, "product_gflop_per_s"))),
    )
