"""Time that the host spends on a step beside the model and the sampler's kernels.

`python -m bench.engine_host` prints milliseconds of thread CPU. The decoder gives the same logits
at once and the sampler's kernels draw the same token; scheduler, pipeline, runner, inputs of the
sampler and frames are the engine's own.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from kernels.triton.process import prepare_triton
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.loop import Engine
from model_svc.engine.messages import Start
from model_svc.engine.request import RequestSpec
from model_svc.engine.runner import Runner
from model_svc.engine.threads import ThreadChoice
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.slot_pool import SlotPool

_STEPS = 100
_TOKEN = 7


@dataclass(frozen=True, slots=True)
class Case:
    """A batch of decodes.

    Attributes:
        name: what is printed.
        sequences: decodes in each step.
        vocab_size: of the model.
        device: whether the runner is that of a device, or the CPU's.
        sampling: of every request.
    """

    name: str
    sequences: int
    vocab_size: int
    device: bool
    sampling: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 1000


_PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1}
CASES = (
    Case("256 decodes, greedy, CPU", 256, 32_000, False, {"temperature": 0.0}),
    Case("256 decodes, random, device", 256, 32_000, True, {"temperature": 0.8}),
    Case("64 decodes, penalties, device", 64, 152_064, True, {"temperature": 0.8, **_PENALTIES}),
)


class _Decoder:
    """A decoder that computes nothing."""

    def __init__(self, vocab_size: int) -> None:
        self._logits = torch.zeros(1, vocab_size)

    def capture(self, *inputs: object, **options: object) -> None:
        return None

    def forward(self, batch: Any, kv: object, finals: Any = None) -> int:
        return len(batch.token_ids if finals is None else finals.rows)

    def logits(self, rows: int) -> torch.Tensor:
        return self._logits.expand(rows, -1)


class _Meter:
    """Counts nothing."""

    def step(self, seconds: float, decodes: int, prompt_tokens: int, preempted: int) -> None:
        pass

    def load(self, running: int, waiting: int, used_slots: int) -> None:
        pass


def _runner(case: Case, context: int) -> Runner:
    """A runner of which all is real but the model and the sampler's kernels."""
    decoder = cast(Decoder, _Decoder(case.vocab_size))
    kv = cast(KvCache, SimpleNamespace(device=torch.device("cpu")))
    rows = SamplingRows(case.sequences, context, case.vocab_size)
    if not case.device:
        sampler = Sampler(case.vocab_size, lambda logits: np.full(len(logits), _TOKEN))
        return HostRunner(decoder, kv, rows, ThreadChoice(1, 1), sampler)
    prepare_triton("interpret")
    from model_svc.engine.device_runner import DeviceRunner
    from model_svc.sampling import device_rows

    def draw(logits: object, choices: object, edits: object, *rest: Any) -> None:
        rest[-1].fill_(_TOKEN)

    vars(device_rows).update(draw=draw, note_tokens=lambda *noted: None)
    state = device_rows.DeviceRows(rows, case.vocab_size, kv.device)
    return DeviceRunner(decoder, kv, rows, state)


def _engine(case: Case) -> Engine:
    tokens = case.prompt_tokens + 2 * _STEPS
    pool = SlotPool(case.sequences * tokens)
    scheduler = Scheduler(pool, rows=case.sequences, context=tokens, max_batch_tokens=8192)
    engine = Engine(_runner(case, tokens), scheduler, pool, lambda report: None, _Meter())
    rng = np.random.default_rng(0)
    for handle in range(case.sequences):
        prompt = rng.integers(0, case.vocab_size, case.prompt_tokens).astype(np.int32)
        sampling = SamplingParams(seed=handle, **case.sampling)
        stop_ids = frozenset({1})
        engine.post(
            Start(
                RequestSpec(
                    handle, 1, "", prompt, sampling, 1, 2 * _STEPS - 1, stop_ids, False, priority=0
                )
            )
        )
    while scheduler.running < case.sequences:
        engine.advance()
    return engine


def measure(case: Case) -> tuple[float, float]:
    """Median and least thread CPU of a step, ms."""
    engine = _engine(case)
    times = []
    for _ in range(_STEPS):
        begin = time.thread_time()
        engine.advance()
        times.append(1e3 * (time.thread_time() - begin))
    return statistics.median(times), min(times)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| step | median ms | least ms |")
    print("|---|---|---|")
    for case in CASES:
        median, least = measure(case)
        print(f"| {case.name} | {median:.2f} | {least:.2f} |")


if __name__ == "__main__":
    main()
