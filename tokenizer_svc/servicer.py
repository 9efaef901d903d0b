"""gRPC face of the pool: hand prompts over, count, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from google.rpc import error_details_pb2
from grpc import aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from chassis.errors import InvalidRequest
from chassis.logs import about
from protos import memory_pb2, tokenizer_pb2, tokenizer_pb2_grpc
from tokenizer_svc.pool import Cause, Pool
from tokenizer_svc.wire import Kind

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0)


class TokenizerMetrics:
    """The tokenizer's counts."""

    def __init__(self, registry: CollectorRegistry, waiting: Callable[[], int]) -> None:
        self.requests = Counter(
            "triptych_tokenizer_encodes", "Prompts encoded.", ["prompt"], registry=registry
        )
        self.tokens = Counter("triptych_tokenizer_tokens", "Tokens encoded.", registry=registry)
        self.seconds = Histogram(
            "triptych_tokenizer_encode_seconds",
            "Time of an Encode, its wait for a worker included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "triptych_tokenizer_refusals", "Prompts refused as invalid.", registry=registry
        )
        self.recalled = Counter(
            "triptych_tokenizer_recalls", "Prompts called back.", registry=registry
        )
        self.restarts = Counter(
            "triptych_tokenizer_worker_restarts", "Workers that crashed.", registry=registry
        )
        self.replacements = Counter(
            "triptych_tokenizer_worker_replacements",
            "Workers ended for what they held: a prompt called back, or memory.",
            ["cause"],
            registry=registry,
        )
        for cause in Cause:  # 0 before the first
            if cause != Cause.CRASH:
                self.replacements.labels(cause.value)
        queue = Gauge("triptych_tokenizer_queue", "Prompts that wait.", registry=registry)
        queue.set_function(waiting)

    def count_replaced(self, cause: Cause) -> None:
        """Count a worker that was replaced."""
        if cause == Cause.CRASH:
            self.restarts.inc()
        else:
            self.replacements.labels(cause.value).inc()


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Answer `triptych.internal.v1.TokenizerService`."""

    def __init__(self, pool: Pool, metrics: TokenizerMetrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def Attach(  # noqa: N802  (name fixed by the proto)
        self, request: tokenizer_pb2.AttachRequest, context: aio.ServicerContext[Any, Any]
    ) -> tokenizer_pb2.AttachResponse:
        """Have a worker prove that it can write the arena; the others are made like it."""
        arena = request.arena.SerializeToString()
        _, proof = await self._pool.ask(Kind.ATTACH, arena, request_id="-")
        return tokenizer_pb2.AttachResponse(proof=memory_pb2.SharedProof.FromString(proof))

    async def Encode(  # noqa: N802  (name fixed by the proto)
        self, request: tokenizer_pb2.EncodeRequest, context: aio.ServicerContext[Any, Any]
    ) -> tokenizer_pb2.EncodeResponse:
        """Encode one prompt; a cancelled call ends once nothing is written for it any more."""
        begun = time.perf_counter()
        try:
            with about(request.request_id or "-"):
                kind, payload = await self._pool.ask(
                    Kind.ENCODE, request.SerializeToString(), request.request_id
                )
        except asyncio.CancelledError:
            self._metrics.recalled.inc()
            raise
        if kind == Kind.REFUSAL:
            self._metrics.refused.inc()
            violation = error_details_pb2.BadRequest.FieldViolation.FromString(payload)
            raise InvalidRequest(violation.field, violation.description)
        response = tokenizer_pb2.EncodeResponse.FromString(payload)
        self._metrics.requests.labels(request.WhichOneof("prompt")).inc()
        self._metrics.tokens.inc(response.count)
        self._metrics.seconds.observe(time.perf_counter() - begun)
        return response

    async def GetVocabulary(  # noqa: N802  (name fixed by the proto)
        self, request: tokenizer_pb2.GetVocabularyRequest, context: aio.ServicerContext[Any, Any]
    ) -> tokenizer_pb2.GetVocabularyResponse:
        """Send the bound on the length of a text."""
        return tokenizer_pb2.GetVocabularyResponse.FromString(self._pool.vocabulary)
