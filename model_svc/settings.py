"""Settings of the model service: `TRIPTYCH_MODEL_*` variables."""

from __future__ import annotations

from dataclasses import dataclass

from chassis.config import ServiceSettings, WrongValue
from chassis.policies.registry import DEFAULT_POLICY, POLICIES

# Frames are cut to a quarter of the ring; one row with all its alternatives has to fit.
LEAST_RING_KIB = 4

_LEAST = {
    "kv_tokens": 0,
    "max_batch_tokens": 0,
    "max_sequences": 1,
    "threads": 0,
    "models_here": 1,
    "ring_kib": LEAST_RING_KIB,
}
_KNOWN = {
    "device": ("auto", "cpu", "cuda", "interpret"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "quantize": ("none", "int8", "int4", "w8a8"),
    "kv_dtype": ("auto", "int8"),
    "policy": tuple(POLICIES),
}


@dataclass(frozen=True, kw_only=True)
class ModelSettings(ServiceSettings):
    """Settings of one model process.

    Attributes:
        checkpoint: folder in Hugging Face layout, or a hub id.
        device: auto, cpu, cuda or interpret.
        dtype: auto, float32, bfloat16 or float16.
        quantize: none, int8, int4 or w8a8: what weights are rounded to when they are loaded.
        kv_dtype: auto or int8: what keys and values are kept in; auto: what is computed in.
        name: what requests call the model; empty: the folder's name.
        kv_tokens: tokens that the KV pool holds; 0: what memory allows.
        max_batch_tokens: tokens in one engine step; 0: 512.
        max_sequences: candidates that may run at once.
        policy: scheduling policy, a name in `chassis.policies.registry`.
        threads: of torch at most, small steps take one; 0: one for each CPU it may use.
        models_here: model processes on this machine, this one among them; what is chosen by itself
            of its memory and CPUs is divided by it.
        ring_kib: size of the token ring in KiB; also bounds frames sent inline.
        shared_memory: whether to offer the ring at all.
    """

    checkpoint: str
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    kv_dtype: str = "auto"
    name: str = ""
    kv_tokens: int = 0
    max_batch_tokens: int = 0
    max_sequences: int = 256
    policy: str = DEFAULT_POLICY
    threads: int = 0
    models_here: int = 1
    ring_kib: int = 4096
    shared_memory: bool = True

    def __post_init__(self) -> None:
        """Refuse what no model can run with.

        Raises:
            WrongValue: a value is out of its range or its set.
        """
        super().__post_init__()
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise WrongValue(field, f"{getattr(self, field)} is less than {least}")
        for field, known in _KNOWN.items():
            if getattr(self, field) not in known:
                said = getattr(self, field)
                raise WrongValue(field, f"{said!r} is none of {', '.join(known)}")
