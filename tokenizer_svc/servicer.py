"""gRPC interface of the pool: prompts in, answers and counts out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc import aio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from chassis.errors import InvalidRequest
from chassis.logs import about
from protos import memory_pb2, tokenizer_pb2
from tokenizer_svc.pool import Cause, Pool
from tokenizer_svc.wire import Kind

SERVICE = "triptych.internal.v1.TokenizerService"

Context = aio.ServicerContext[Any, Any]

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


class EncodeCall(NamedTuple):
    """A request to encode, with its bytes, which a worker gets unchanged."""

    request: tokenizer_pb2.EncodeRequest
    raw: bytes

    @classmethod
    def from_bytes(cls, raw: bytes) -> EncodeCall:
        """Parse a message.

        Raises:
            DecodeError: it is malformed.
        """
        return cls(tokenizer_pb2.EncodeRequest.FromString(raw), raw)


class TokenizerServicer:
    """Answer `triptych.internal.v1.TokenizerService`."""

    def __init__(self, pool: Pool, metrics: TokenizerMetrics) -> None:
        self._pool = pool
        self._metrics = metrics

    def add_to(self, server: aio.Server) -> None:
        """Register the service; answers of workers to `Encode` are sent as they are."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Attach": grpc.unary_unary_rpc_method_handler(
                self.attach,
                tokenizer_pb2.AttachRequest.FromString,
                tokenizer_pb2.AttachResponse.SerializeToString,
            ),
            "Encode": grpc.unary_unary_rpc_method_handler(self.encode, EncodeCall.from_bytes),
            "GetVocabulary": grpc.unary_unary_rpc_method_handler(
                self.get_vocabulary, tokenizer_pb2.GetVocabularyRequest.FromString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def attach(self, request: tokenizer_pb2.AttachRequest, context: Context) -> Message:
        """Have a worker prove that it can write the arena; the others are made like it."""
        arena = request.arena.SerializeToString()
        _, proof = await self._pool.ask(Kind.ATTACH, arena, request_id="-")
        return tokenizer_pb2.AttachResponse(proof=memory_pb2.SharedProof.FromString(proof))

    async def encode(self, call: EncodeCall, context: Context) -> bytes:
        """Encode one prompt; a cancelled call ends once no worker writes for it any more."""
        begun = time.perf_counter()
        request_id, prompt = call.request.request_id, call.request.WhichOneof("prompt")
        try:
            with about(request_id or "-"):
                kind, payload = await self._pool.ask(Kind.ENCODE, call.raw, request_id)
        except asyncio.CancelledError:
            self._metrics.recalled.inc()
            raise
        if kind == Kind.REFUSAL:
            self._metrics.refused.inc()
            violation = error_details_pb2.BadRequest.FieldViolation.FromString(payload)
            raise InvalidRequest(violation.field, violation.description)
        self._metrics.requests.labels(prompt).inc()
        self._metrics.tokens.inc(tokenizer_pb2.EncodeResponse.FromString(payload).count)
        self._metrics.seconds.observe(time.perf_counter() - begun)
        return payload

    async def get_vocabulary(
        self, request: tokenizer_pb2.GetVocabularyRequest, context: Context
    ) -> bytes:
        """Send the bound on the length of a text, as a worker has written it."""
        return self._pool.vocabulary
