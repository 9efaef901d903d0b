"""Assembly of a running model from settings: checkpoint, weights, KV pool, engine.

Invariant: every call of torch before the engine's first step is made here, on the engine thread.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch
from google.protobuf.json_format import ParseDict
from prometheus_client import CollectorRegistry

from chassis.errors import StartError
from chassis.policies.registry import POLICIES
from chassis.serving.introspection import triptych_version
from kernels.c.argmax import NativeArgmax
from kernels.c.levels import LEVELS
from kernels.c.library import load_library
from kernels.devices import UnsupportedDevice, memory_of
from kernels.formats import KV_FORMATS, WEIGHT_FORMATS
from kernels.select import operations_for
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.loop import Engine
from model_svc.engine.runner import Runner
from model_svc.engine.threads import ThreadChoice, most_threads
from model_svc.fault_injection import with_faults
from model_svc.memory import available_bytes, choose_slots
from model_svc.metrics import ModelMetrics
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache, bytes_per_slot
from model_svc.sampling.cpu_sampler import Sampler, argmax
from model_svc.sampling.rows import SamplingRows
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.slot_pool import SlotPool
from model_svc.serving.publisher import ReportPublisher
from model_svc.serving.submission import Limits
from model_svc.settings import ModelSettings
from model_svc.weights.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from model_svc.weights.loader import load_weights
from protos import generation_pb2, model_pb2

log = logging.getLogger(__name__)

_BATCH_TOKENS = 512
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can run.

    Attributes:
        engine: its step loop.
        hub: publisher of its reports.
        metrics: counters of its work.
        limits: bounds of a request.
        welcome: its description for routers.
    """

    engine: Engine
    hub: ReportPublisher
    metrics: ModelMetrics
    limits: Limits
    welcome: model_pb2.Welcome


def choose_dtype(asked: str, checkpoint_dtype: str, device: str) -> torch.dtype:
    """Type that the model computes in.

    `auto` is bfloat16 for a checkpoint of 16 bits, but float32 on a CPU that is not fast in it.
    """
    if asked == "auto":
        half = checkpoint_dtype in ("bfloat16", "float16")
        fast = half and (device == "cuda" or _multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    return _DTYPES[asked]


def _multiplies_bfloat16() -> bool:
    """True where the processor does, or compiled operations of any level but the slowest."""
    library = load_library().library
    compiled = library is not None and library.level != LEVELS[0]
    return compiled or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_device(asked: str) -> str:
    """Device of the model; `auto` is the CPU."""
    return "cpu" if asked == "auto" else asked


def make_runner(
    device: str, decoder: Decoder, kv: KvCache, rows: SamplingRows, threads: ThreadChoice
) -> Runner:
    """The runner of `device`; call it after `operations_for`, which makes Triton ready.

    Args:
        device: cpu, cuda or interpret.
        decoder: made for it.
        kv: on it.
        rows: as many as the scheduler has.
        threads: of the CPU.
    """
    vocab_size = decoder.spec.vocab_size
    if device == "cpu":
        library = load_library().library
        find = argmax if library is None else NativeArgmax(library)
        return HostRunner(decoder, kv, rows, threads, Sampler(vocab_size, find))
    from model_svc.engine.device_runner import DeviceRunner
    from model_svc.sampling.device_rows import DeviceRows

    return DeviceRunner(decoder, kv, rows, DeviceRows(rows, vocab_size, kv.device))


def load(
    settings: ModelSettings,
    registry: CollectorRegistry,
    post: Callable[[Callable[[], None]], None],
) -> LoadedModel:
    """Load the checkpoint and build its engine; takes seconds to minutes.

    Args:
        settings: of the service.
        registry: where its metrics go.
        post: has a function called on the event loop.

    Raises:
        StartError: something asked for cannot be had; one line.
    """
    cpus = len(os.sched_getaffinity(0))
    threads = most_threads(settings.threads, cpus, sharers=settings.models_here)
    torch.set_num_threads(threads)
    try:
        checkpoint = open_checkpoint(settings.checkpoint)
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, checkpoint.dtype, device)
        weight_format = WEIGHT_FORMATS[settings.quantize]
        ops = operations_for(device, dtype, weight_format, KV_FORMATS[settings.kv_dtype])
        memory = memory_of(device)
        kv_dtype = torch.int8 if settings.kv_dtype == "int8" else dtype
        slots = choose_slots(
            settings.kv_tokens,
            bytes_per_slot(checkpoint.spec, kv_dtype),
            available_bytes(memory),
            sharers=settings.models_here,
        )
        weights = load_weights(checkpoint, ops, dtype, _Progress(), memory)
    except (CheckpointError, UnsupportedDevice) as error:
        raise StartError(str(error)) from error
    decoder = Decoder(checkpoint.spec, weights, ops, dtype)
    kv = KvCache(checkpoint.spec, slots, kv_dtype, memory)
    if device == "cpu" and dtype != torch.float32 and load_library().why_not:
        log.warning(
            "the fastest compiled operations cannot be used; others are slower",
            extra={"reason": load_library().why_not},
        )
    log.info(
        "model loaded",
        extra={
            "model": checkpoint.name,
            "device": device,
            "dtype": _name(dtype),
            "quantize": settings.quantize,
            "kv_dtype": _name(kv_dtype),
            "kv_slots": slots,
            "threads": threads,
        },
    )
    runtime = Runtime(decoder, kv, device, dtype, threads, registry, post)
    return _assemble(settings, checkpoint, runtime)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Progress:
    """Log how far loading is, each time it is a twentieth further."""

    def __init__(self) -> None:
        self._told = -1

    def __call__(self, done: int, total: int) -> None:
        twentieths = 20 * done // total
        if twentieths > self._told:
            self._told = twentieths
            log.info("loading weights", extra={"done_bytes": done, "total_bytes": total})


@dataclass(frozen=True, slots=True)
class Runtime:
    """Parts that an engine is built from."""

    decoder: Decoder
    kv: KvCache
    device: str
    dtype: torch.dtype
    threads: int
    registry: CollectorRegistry
    post: Callable[[Callable[[], None]], None]


def _assemble(settings: ModelSettings, checkpoint: Checkpoint, runtime: Runtime) -> LoadedModel:
    kv, spec = runtime.kv, checkpoint.spec
    metrics = ModelMetrics(runtime.registry, kv.slots)
    hub = ReportPublisher(metrics, runtime.post)
    pool = SlotPool(kv.slots)
    budget = settings.max_batch_tokens or max(_BATCH_TOKENS, settings.max_sequences)
    most, context = min(settings.max_sequences, budget), spec.context_length
    scheduler = Scheduler(
        pool,
        rows=most,
        context=context,
        max_batch_tokens=budget,
        policy=POLICIES[settings.policy],
    )
    rows = SamplingRows(most, context, spec.vocab_size)
    threads = ThreadChoice(checkpoint.parameters, runtime.threads)
    runner = with_faults(make_runner(runtime.device, runtime.decoder, kv, rows, threads))
    engine = Engine(runner, scheduler, pool, hub.deliver, metrics)
    limits = Limits(
        spec.vocab_size, min(spec.context_length, kv.slots), frozenset(checkpoint.eos_token_ids)
    )
    welcome = _welcome(settings, checkpoint, runtime, budget)
    return LoadedModel(engine, hub, metrics, limits, welcome)


def _welcome(
    settings: ModelSettings, checkpoint: Checkpoint, runtime: Runtime, budget: int
) -> model_pb2.Welcome:
    return model_pb2.Welcome(
        model=_describe(settings, checkpoint, runtime.dtype),
        kv_slots=runtime.kv.slots,
        max_sequences=min(settings.max_sequences, budget),
        max_batch_tokens=budget,
        eos_token_ids=checkpoint.eos_token_ids,
        incarnation=1 + secrets.randbelow(2**64 - 1),
    )


def _describe(
    settings: ModelSettings, checkpoint: Checkpoint, dtype: torch.dtype
) -> generation_pb2.Model:
    return generation_pb2.Model(
        name=settings.name or checkpoint.name,
        architecture=checkpoint.architecture,
        context_length=checkpoint.context_length,
        vocab_size=checkpoint.spec.vocab_size,
        parameters=checkpoint.parameters,
        dtype=_name(dtype),
        version=triptych_version(),
        generation_defaults=_generation_defaults(checkpoint),
    )


def _generation_defaults(checkpoint: Checkpoint) -> generation_pb2.SamplingParams | None:
    """The checkpoint's sampling parameters; None where it has none."""
    if not checkpoint.sampling_defaults:
        return None
    return ParseDict(dict(checkpoint.sampling_defaults), generation_pb2.SamplingParams())
