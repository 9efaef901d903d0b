"""A device one step ahead tells what the host tells: tokens bit for bit, scores closely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support import checkpoints
from support.engine_harness import Harness, spec

from kernels.select import operations_for
from kernels.triton.process import prepare_triton
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.messages import Forget, Start, Stop
from model_svc.engine.runner import Runner
from model_svc.engine.threads import ThreadChoice
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights
from protos.token_frame import PROMPT

VOCAB = 515
PROMPT_IDS = [int(token) for token in np.random.default_rng(3).integers(3, 250, 21)]
Decoders = Callable[[str], Decoder]
Told = dict[tuple[int, int, int, int], tuple[int, float, int, list[tuple[int, float]]]]

PENALTIES: dict[str, Any] = {
    "temperature": 0.9,
    "top_p": 0.99,
    "top_k": 50,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 1.0,
    "logit_bias": dict.fromkeys(range(300, 304), 9.0),
}
CASES: dict[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "random": {},
    "penalties": PENALTIES,
    "greedy penalties": {**PENALTIES, "temperature": 0.0},
    "stop ids forbidden at first": {
        "temperature": 1.5,
        "min_tokens": 4,
        "suppressed_ids": (checkpoints.EOS_ID,),
        "logit_bias": {checkpoints.EOS_ID: 8.0, 300: 3.0},
    },
    "log-probabilities": {"logprobs": 3},
    "bad words": {
        **PENALTIES,
        "temperature": 0.0,  # filters take the interpreter long
        "logprobs": 2,
        "bad_sequences": ((303,), (300, 301), (301, 301), (302, 300, 302), (PROMPT_IDS[-1], 302)),
    },
}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Decoders:
    prepare_triton("interpret")
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")

    @cache
    def decoder(device: str) -> Decoder:
        checkpoint = read_checkpoint(folder)
        ops = operations_for(device, torch.float32)
        weights = load_weights(checkpoint, ops, torch.float32)
        return Decoder(checkpoint.spec, weights, ops, torch.float32)

    return decoder


def host_runner(decoder: Decoder) -> Callable[[int, int, int], Runner]:
    def make(slots: int, rows: int, context: int) -> Runner:
        kv = KvCache(decoder.spec, slots, torch.float32)
        threads = ThreadChoice(1, torch.get_num_threads())
        return HostRunner(decoder, kv, SamplingRows(rows, context, VOCAB), threads, Sampler(VOCAB))

    return make


def device_runner(decoder: Decoder) -> Callable[[int, int, int], Runner]:
    from model_svc.engine.device_runner import DeviceRunner
    from model_svc.sampling.device_rows import DeviceRows

    def make(slots: int, rows: int, context: int) -> Runner:
        kv = KvCache(decoder.spec, slots, torch.float32)
        host = SamplingRows(rows, context, VOCAB)
        return DeviceRunner(decoder, kv, host, DeviceRows(host, VOCAB, kv.device))

    return make


def told_by(h: Harness) -> Told:
    """All rows by handle, candidate, kind and position."""
    told: Told = {}
    for frame in (report.frame for report in h.reports if report.frame is not None):
        start = 0
        for row in frame.rows:
            end = start + int(row["alternatives"])
            others = frame.alternatives[start:end].tolist()
            start = end
            flags = int(row["flags"])
            place = int(row["handle"]), int(row["candidate"]), flags & PROMPT, int(row["position"])
            told[place] = int(row["token"]), float(row["logprob"]), flags, others
    return told


def assert_same(got: Told, want: Told) -> None:
    assert got.keys() == want.keys()
    for place, (token, logprob, flags, others) in want.items():
        mine = got[place]
        assert (mine[0], mine[2]) == (token, flags), place
        assert mine[1] == pytest.approx(logprob, abs=1e-4, nan_ok=True)
        assert [one[0] for one in mine[3]] == [one[0] for one in others]
        np.testing.assert_allclose(
            [one[1] for one in mine[3]], [one[1] for one in others], atol=1e-4
        )


def run(
    make: Callable[[int, int, int], Runner], sampling: Mapping[str, Any], slots: int
) -> tuple[Told, Harness]:
    """Requests with `sampling` that come and go beside each other in a pool of `slots`."""
    h = Harness(slots, budget=16, runner=make)
    stops = frozenset({checkpoints.EOS_ID})
    for handle, count in enumerate((2, 2), 1):
        own = SamplingParams(**{"seed": handle, **sampling})
        values = {"stop_ids": stops, "candidates": count, "prompt_logprobs": handle == 2}
        h.do(Start(spec(handle, PROMPT_IDS[: 8 * handle], 6, sampling=own, **values)))
        h.step()
    h.idle()
    return told_by(h), h


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_the_host(decoders: Decoders, name: str) -> None:
    decoder = decoders("cpu")
    want, _ = run(host_runner(decoder), CASES[name], 32)
    got, device = run(device_runner(decoder), CASES[name], 32)

    assert_same(got, want)
    assert device.meter.preempted > 0 or "stop" in name
    assert device.pool.used_slots == 0


def test_with_interpreted_kernels_tokens_are_those_of_the_cpu(decoders: Decoders) -> None:
    got, _ = run(device_runner(decoders("interpret")), {"temperature": 0.0, "logprobs": 1}, 512)
    want, _ = run(host_runner(decoders("cpu")), {"temperature": 0.0, "logprobs": 1}, 512)

    assert {place: row[0] for place, row in got.items()} == {p: row[0] for p, row in want.items()}


def test_a_row_that_changes_hands_while_a_step_is_in_flight_keeps_nothing(
    decoders: Decoders,
) -> None:
    """Its new sequence has bad words, penalties and another seed, and is stopped in turn."""
    decoder = decoders("cpu")

    def rows(make: Callable[[int, int, int], Runner]) -> Told:
        h = Harness(128, rows=1, budget=32, runner=make)
        for handle, name in enumerate(("bad words", "greedy penalties", "bad words"), 1):
            sampling = SamplingParams(**{"seed": handle, **CASES[name]})
            h.do(Start(spec(handle, PROMPT_IDS[:6], 12, sampling=sampling)))
        while len(h.ids(1)) < 3:
            h.step()
        h.do(Stop(1, None))
        while len(h.ids(2)) < 3:
            h.step()
        h.do(Forget(2))
        h.idle()
        return {place: row for place, row in told_by(h).items() if place[3] < 3 or place[0] == 3}

    assert_same(rows(device_runner(decoder)), rows(host_runner(decoder)))
