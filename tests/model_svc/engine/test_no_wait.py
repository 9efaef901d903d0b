"""A launched step never waits for its device, and uploads nothing but its one block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from support import checkpoints
from support.engine_harness import Harness, spec
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from kernels.select import operations_for
from kernels.triton.process import prepare_triton
from model_svc.engine import step_transfer
from model_svc.engine.messages import Start
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

VOCAB = 515
BOOL = torch.bool
WAITS = {
    "item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__",
    "__array__", "unique", "masked_select", "tensor", "as_tensor", "from_numpy", "synchronize",
}  # fmt: skip
DISPATCHED = {
    "aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2",
    "aten::lift_fresh", "aten::item", "aten::equal",
}  # fmt: skip


class Waited(Exception):
    """Something waited for the device, or uploaded on its own."""


class Guard:
    """Refuses waits and uploads, but within kernels that are interpreted and within transfers."""

    def __init__(self) -> None:
        self.exempt = 0
        self.uploads = 0
        self.refused = 0

    @contextmanager
    def exemption(self) -> Iterator[None]:
        self.exempt += 1
        try:
            yield
        finally:
            self.exempt -= 1

    def check(self, name: str) -> None:
        if not self.exempt and (name in WAITS or name in DISPATCHED):
            raise Waited(name)

    def exempting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self.exemption():
                return function(*arguments, **options)

        return call

    @contextmanager
    def watch(self) -> Iterator[None]:
        guard = self

        class Functions(TorchFunctionMode):
            def __torch_function__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                guard.check(getattr(func, "__name__", ""))
                return func(*args, **(kwargs or {}))

        class Dispatched(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                guard.check(func._schema.name)
                if func._schema.name in ("aten::index", "aten::index_put_"):
                    for index in args[1]:
                        guard.check("nonzero" if index is not None and index.dtype == BOOL else "")
                return func(*args, **(kwargs or {}))

        with Functions(), Dispatched():
            yield


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    prepare_triton("interpret")
    guard = Guard()
    grid = interpreter.GridExecutor
    monkeypatch.setattr(grid, "__call__", guard.exempting(grid.__call__))
    send = step_transfer.Uploads.send

    def counted(*arguments: Any) -> Any:
        guard.uploads += 1
        return guard.exempting(send)(*arguments)

    monkeypatch.setattr(step_transfer.Uploads, "send", counted)
    from_numpy = torch.from_numpy

    def checked(array: Any) -> torch.Tensor:
        guard.check("from_numpy")
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", checked)
    return guard


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    prepare_triton("interpret")
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")
    checkpoint = read_checkpoint(folder)
    ops = operations_for("interpret", torch.float32)
    return Decoder(
        checkpoint.spec, load_weights(checkpoint, ops, torch.float32), ops, torch.float32
    )


OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"top_k": 5, "top_p": 0.9, "min_p": 0.01},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.1, "logprobs": 2},
    {"logit_bias": {3: 2.0}, "bad_sequences": ((4,), (5, 6))},
    {"min_tokens": 3, "suppressed_ids": (7,)},
]


def test_no_launch_waits_and_each_uploads_once(decoder: Decoder, guard: Guard) -> None:
    from model_svc.engine.device_runner import DeviceRunner
    from model_svc.sampling.device_rows import DeviceRows

    def runner(slots: int, rows: int, context: int) -> DeviceRunner:
        kv = KvCache(decoder.spec, slots, torch.float32)
        host = SamplingRows(rows, context, VOCAB)
        return DeviceRunner(decoder, kv, host, DeviceRows(host, VOCAB, kv.device))

    h = Harness(256, runner=runner)
    launch, launches = h.runner.launch, itertools.count(1)

    def watched(step: Any) -> object:
        next(launches)
        with guard.watch():
            return launch(step)

    h.runner.launch = watched
    for handle, sampling in enumerate(OPTIONS):
        values = {"prompt_logprobs": "logprobs" in sampling, "candidates": 1 + handle % 2}
        own = SamplingParams(**{"seed": handle, **sampling})
        h.do(Start(spec(handle, range(9, 12 + handle), 3, sampling=own, **values)))
    h.idle()

    assert all(h.finished(handle) for handle in range(len(OPTIONS)))
    assert guard.uploads == next(launches) - 1 > 3


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: bool(x),
        lambda x: int(x),
        lambda x: x.nonzero(),
        lambda x: torch.ones(3)[torch.ones(3) > 0],
        lambda x: torch.tensor([1]),
        lambda x: torch.from_numpy(np.zeros(1)),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_guard_finds_a_wait(guard: Guard, wait: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(Waited), guard.watch():
        wait(torch.ones(()))
