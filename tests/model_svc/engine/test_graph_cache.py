"""Steps that are captured and replayed: their logits are those of steps computed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.engine_harness import Harness, spec
from support.kernels.operations import QUANTISED
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.c.library import load_library
from kernels.formats import KV_FORMATS, WEIGHT_FORMATS
from kernels.ops import Operations
from kernels.select import operations_for
from model_svc.engine.graph_cache import GraphCache
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.messages import Start
from model_svc.engine.threads import ThreadChoice
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

BF16 = torch.bfloat16
FAMILIES = ["llama", "qwen2", "qwen3", "mixtral"]
ROWS, CONTEXT, VOCAB = 6, 700, 515
SLOTS = ROWS * CONTEXT
Chunk = tuple[int, int]
"""A row, and how many tokens it brings."""


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Decoder, Operations]]:
    """Decoders of tiny checkpoints, each with its own set of operations."""

    @cache
    def folder(family: str, dtype: str) -> Path:
        sizes = {"max_position_embeddings": CONTEXT, "intermediate_size": 78}
        return write_checkpoint(tmp_path_factory.mktemp(family), family, dtype, **sizes)

    def decoder(
        family: str, quantize: str = "none", kv: str = "auto", dtype: str = "bfloat16"
    ) -> tuple[Decoder, Operations]:
        checkpoint = read_checkpoint(folder(family, dtype))
        of = getattr(torch, dtype)
        ops = operations_for("cpu", of, WEIGHT_FORMATS[quantize], KV_FORMATS[kv])
        return Decoder(checkpoint.spec, load_weights(checkpoint, ops, of), ops, of), ops

    return decoder


def needs_library() -> None:
    if load_library().library is None:
        pytest.skip(load_library().why_not)


class Twins:
    """The same steps through `GraphCache` and at once, each over a cache of its own."""

    def __init__(self, decoder: Decoder, kept: torch.dtype = BF16) -> None:
        self.decoder = decoder
        self.kv, self.uncaptured_kv = (KvCache(decoder.spec, SLOTS, kept) for _ in range(2))
        self.draw = np.random.default_rng(0)
        self.table = self.draw.permutation(SLOTS).astype(np.int32).reshape(ROWS, CONTEXT)
        self.steps = GraphCache(decoder, self.kv, self.table)
        self.lengths = np.zeros(ROWS, np.int64)

    def batch(self, chunks: Sequence[Chunk]) -> Batch:
        rows, counts = (np.array(part) for part in zip(*chunks, strict=True))
        ids = self.draw.integers(0, VOCAB, counts.sum())
        batch = Batch.build(ids, rows, self.lengths[rows], counts, self.table)
        self.lengths[rows] += counts
        return batch

    def step(self, chunks: Sequence[Chunk], finals: Sequence[int] | None = None) -> None:
        """Run a step both ways, and hold them to the same logits."""
        batch = self.batch(chunks)
        wanted = None if finals is None else batch.finals(finals)
        want = self.decoder.logits(self.decoder.forward(batch, self.uncaptured_kv, wanted))

        self.compare(self.steps.logits(batch, wanted), want)

    def decode(self, *rows: int) -> None:
        """Run a step of decodes, in the same way."""
        positions = self.lengths[list(rows)]
        batch = self.batch([(row, 1) for row in rows])
        want = self.decoder.logits(self.decoder.forward(batch, self.uncaptured_kv))

        slots = self.table[list(rows), positions]
        got = self.steps.decode(batch.token_ids.numpy(), np.array(rows), positions, slots)

        self.compare(got, want)

    @staticmethod
    def compare(got: torch.Tensor, want: torch.Tensor) -> None:
        assert torch.equal(got.float(), want)
        assert want.isfinite().all()


class Counted:
    """How often a decoder captures."""

    def __init__(self, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._capture = decoder.capture
        monkeypatch.setattr(decoder, "capture", self._counted)

    def _counted(self, *arguments: Any, **options: Any) -> Any:
        self.times += 1
        return self._capture(*arguments, **options)


def run_everything(twins: Twins) -> None:
    """Prompts, mixed steps, and decodes of changing rows, lengths and numbers."""
    twins.step([(0, 7), (1, 40), (2, 3)], finals=[0, 2])
    twins.decode(0, 1, 2)
    twins.step([(0, 1), (2, 1), (1, 5), (3, 70)], finals=[0, 1, 3])
    for rows in ((0, 1, 2, 3), (3, 0, 2, 1), (2, 3), (1,), (0,), (3, 1), (0, 1, 2, 3)):
        twins.decode(*rows)
    twins.step([(4, 9), (5, 30)], finals=[0])
    twins.step([(5, 4)])
    for rows in ((5, 4, 3, 2, 1, 0), (2, 1, 0, 5, 4, 3), (4, 5), (0, 1, 2, 3)):
        twins.decode(*rows)
    twins.lengths[2] = 0  # Another sequence begins where one has ended.
    twins.step([(0, 1), (2, 21)], finals=[0, 1])
    twins.decode(2, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_steps_computed_at_once(
    made: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_library()
    decoder, _ = made(family)
    twins, counted = Twins(decoder), Counted(decoder, monkeypatch)

    run_everything(twins)

    # Five steps with prompts, and decodes of 1, 2, 3, 4 and 6 rows.
    assert counted.times == 5 + 5


@pytest.mark.parametrize("quantize", QUANTISED)
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_quantised_weights_give_the_same_too(made: Any, family: str, quantize: str) -> None:
    needs_library()
    decoder, _ = made(family, quantize)
    twins = Twins(decoder)

    run_everything(twins)

    assert decoder.capture(twins.batch([(0, 1)]), twins.kv, None) is not None


@pytest.mark.parametrize("quantize", ["none", "int4"])
def test_an_int8_cache_gives_the_same_too(made: Any, quantize: str) -> None:
    needs_library()
    run_everything(Twins(made("llama", quantize, "int8")[0], torch.int8))


def test_sets_that_do_not_capture_give_the_same_too(made: Any) -> None:
    decoder, _ = made("llama", dtype="float32")
    twins = Twins(decoder, torch.float32)

    run_everything(twins)

    assert decoder.capture(twins.batch([(0, 1)]), twins.kv, None) is None


def test_sequences_that_outgrow_what_was_captured_are_captured_anew(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_library()
    decoder, _ = made("llama")
    twins, counted = Twins(decoder), Counted(decoder, monkeypatch)
    twins.step([(0, 509), (1, 3)], finals=[0, 1])
    for _ in range(6):
        twins.decode(0, 1)

    # The prompts, the first decode, and the one that passes a split of 512.
    assert counted.times == 3


def test_another_number_of_threads_is_captured_anew(
    made: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    needs_library()
    decoder, _ = made("llama")
    twins, counted = Twins(decoder), Counted(decoder, monkeypatch)
    twins.decode(0, 1)
    twins.decode(0, 1)
    assert counted.times == 1

    torch.set_num_threads(3 - threads)
    twins.decode(0, 1)

    assert counted.times == 2


class Computing(TorchDispatchMode):
    """The names of what PyTorch is asked for that does more than look at a tensor otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if func._schema.is_mutable or not storages(result) <= storages((args, kwargs)):
            self.names.add(func._schema.name)
        return result


def storages(tree: Any) -> set[int]:
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {leaf.untyped_storage().data_ptr() for leaf in leaves}


CAPTURING = [
    *((family, "none", "auto") for family in FAMILIES),
    *(("llama", quantize, "auto") for quantize in QUANTISED),
    ("llama", "none", "int8"),
]


@pytest.mark.parametrize(("family", "quantize", "kept"), CAPTURING)
def test_pytorch_is_asked_for_views_alone_while_a_step_is_captured(
    made: Any, family: str, quantize: str, kept: str
) -> None:
    needs_library()
    decoder, _ = made(family, quantize, kept)
    twins = Twins(decoder, BF16 if kept == "auto" else torch.int8)
    batch = twins.batch([(0, 1), (1, 5)])
    for finals in (None, batch.finals([0, 1])):
        with Computing() as computing:
            assert decoder.capture(batch, twins.kv, finals) is not None
        assert computing.calls > 10
        # Blocks of memory, which nothing is written to.
        assert computing.names <= {"aten::empty"}


def generations(decoder: Decoder) -> dict[tuple[int, int], list[int]]:
    """What an engine generates of requests that come and go beside each other."""

    def runner(slots: int, rows: int, context: int) -> HostRunner:
        kv = KvCache(decoder.spec, slots, BF16)
        choice = ThreadChoice(10**9, torch.get_num_threads())
        return HostRunner(decoder, kv, SamplingRows(rows, context, VOCAB), choice, Sampler(VOCAB))

    harness = Harness(512, budget=16, runner=runner)
    for handle in range(1, 6):
        sampling = SamplingParams(seed=handle, temperature=0.8 * (handle % 2))
        prompt = [(handle * 7 + place) % VOCAB for place in range(4 * handle)]
        harness.do(
            Start(spec(handle, prompt, 6 * handle, sampling=sampling, candidates=1 + handle % 3))
        )
        for _ in range(3):
            harness.step()
    harness.idle()
    return {
        (handle, candidate): harness.ids(handle, candidate)
        for handle in range(1, 6)
        for candidate in range(1 + handle % 3)
    }


@pytest.mark.parametrize("family", ["qwen3", "mixtral"])
def test_an_engine_generates_the_same_captured_and_at_once(
    made: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_library()
    decoder, ops = made(family)
    counted = Counted(decoder, monkeypatch)
    captured = generations(decoder)
    assert counted.times > 5
    monkeypatch.setattr(ops, "capture", lambda compute: None)

    assert generations(decoder) == captured
    assert all(len(captured[handle, 0]) == 6 * handle for handle in range(1, 6))
