"""Adapter of the protocol `triptych.v1`: its `GenerationService` over the router's core.

Every call about a request has an id, sent in its answers, its initial metadata and its log lines.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from grpc import aio

from chassis import logs
from chassis.errors import InvalidRequest, ServiceError
from protos import generation_pb2, generation_pb2_grpc
from router.api.request_log import RequestLog
from router.api.requests import (
    generation_request,
    prompt_path,
    skips_special_tokens,
    special_tokens,
    text_prompt,
    with_path,
)
from router.api.responses import add_parts, model_of, prompt_of, replica_of, tokens_of, usage_of
from router.links.tokenizer_link import TokenizerLink, question_of
from router.metrics import RouterMetrics
from router.placement.dispatcher import Dispatcher
from router.request_runner import RequestRunner
from router.requests import validation
from router.requests.delta_buffer import MERGED, STEPS_APART
from router.requests.request import RouterRequest
from router.requests.sizes import Sizes
from router.text_decoder import TextDecoder

REQUEST_ID_KEY = "x-request-id"

Context = aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Answer `triptych.v1.GenerationService`."""

    def __init__(
        self,
        runner: RequestRunner,
        tokenizer: TokenizerLink,
        decoder: TextDecoder,
        dispatcher: Dispatcher,
        sizes: Callable[[], Sizes],
        metrics: RouterMetrics,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._decoder = decoder
        self._dispatcher = dispatcher
        self._sizes = sizes
        self._metrics = metrics

    async def Generate(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> generation_pb2.GenerateResponse:
        """Run a prompt to its end."""
        call = self._running(request, context, MERGED)
        del request  # it is dropped once it is read
        async with call as running:
            parts = await running.buffer.take()
            response = generation_pb2.GenerateResponse(
                request_id=running.request_id,
                usage=usage_of(running),
                prompt=await prompt_of(running),
            )
            add_parts(response.candidates, parts)
            return response

    async def GenerateStream(  # type: ignore[override]  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> None:
        """Run a prompt, writing each step's text as it comes."""
        call = self._running(request, context, STEPS_APART)
        del request  # it is dropped once it is read
        async with call as running:
            first = True
            while not running.buffer.drained:
                parts = await running.buffer.take()
                message = generation_pb2.GenerateStreamResponse(
                    request_id=running.request_id,
                    prompt=await prompt_of(running) if first else None,
                    usage=usage_of(running) if running.buffer.drained else None,
                )
                add_parts(message.deltas, parts)
                first = False
                await _write(context, message)

    async def Tokenize(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        """Turn text or a chat into ids."""
        with self._recorded("Tokenize", context) as request_id:
            question = question_of(text_prompt(request), special_tokens(request), request_id)
            question.want_tokens = True
            path = prompt_path(request)
            validation.check_model(request.model, await self._dispatcher.limits())
            try:
                encoded = await self._tokenizer.encode(question, 0)
            except ServiceError as error:
                raise with_path(error, path) from error
            response = await tokens_of(encoded)
            self._sizes().check_answer(path, response.ByteSize())
            return response

    async def Detokenize(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        """Turn ids into text."""
        with self._recorded("Detokenize", context) as request_id:
            limits = await self._dispatcher.limits()
            validation.check_model(request.model, limits)
            validation.check_ids("token_ids", request.token_ids, limits)
            text = await self._decoder.decode(
                request_id,
                request.token_ids,
                skip_special_tokens=skips_special_tokens(request),
            )
            return generation_pb2.DetokenizeResponse(text=text)

    async def ListModels(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        """List the model, once a replica has described it."""
        model = self._dispatcher.model()
        if model is None:
            return generation_pb2.ListModelsResponse()
        return generation_pb2.ListModelsResponse(models=[model_of(model)])

    async def GetLoad(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GetLoadRequest, context: Context
    ) -> generation_pb2.GetLoadResponse:
        """Report the load: requests that wait and run, and the KV slots of each replica."""
        replicas = [replica.describe() for replica in self._dispatcher.replicas]
        return generation_pb2.GetLoadResponse(
            queued=self._dispatcher.queued,
            running=self._dispatcher.running,
            kv_slots_used=sum(replica.kv_slots_used for replica in replicas),
            kv_slots_total=sum(replica.kv_slots_total for replica in replicas),
            replicas=map(replica_of, replicas),
        )

    @contextmanager
    def _recorded(self, method: str, context: Context) -> Iterator[str]:
        """Record a call that runs nothing under its request id, for the block."""
        given = _given_id("", context)
        request_id = _usable_id(given)
        with logs.about(request_id), RequestLog(self._metrics, context, method):
            validation.check_request_id(given)
            yield request_id

    @asynccontextmanager
    async def _running(
        self, request: generation_pb2.GenerateRequest, context: Context, steps_apart: int
    ) -> AsyncIterator[RouterRequest]:
        """Run `request` for the block, recorded under its id."""
        given = _given_id(request.request_id, context)
        request_id = _usable_id(given)
        path = prompt_path(request)
        with logs.about(request_id), RequestLog(self._metrics, context) as record:
            try:
                validation.check_request_id(given)
                deadline = _deadline(context)
                call = self._runner.run(
                    generation_request(request), request_id, steps_apart, deadline
                )
                del request
                async with call as running:
                    record.request = running
                    # Now, because the model is at work meanwhile.
                    await _tell_id(context, request_id)
                    yield running
            except ServiceError as error:
                if record.request is None:
                    await _tell_id(context, request_id)
                raise with_path(error, path) from error


def _given_id(given: str, context: Context) -> str:
    """The id that a caller gave in the request, else in its metadata; empty: none."""
    if not given:
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                given = value
    return given


def _usable_id(given: str) -> str:
    """`given`, or a new id where there is none that can be sent back."""
    try:
        validation.check_request_id(given)
    except InvalidRequest:
        given = ""
    return given or secrets.token_hex(6)


def _deadline(context: Context) -> float | None:
    """The caller's deadline, by the loop's clock; None: there is none."""
    left_s = context.time_remaining()
    return None if left_s is None else asyncio.get_running_loop().time() + left_s


async def _tell_id(context: Context, request_id: str) -> None:
    try:
        await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
    except aio.InternalError:  # a client that has gone is a cancelled call
        raise asyncio.CancelledError from None


async def _write(context: Context, message: generation_pb2.GenerateStreamResponse) -> None:
    try:
        await context.write(message)
    except aio.InternalError:  # a client that has gone is a cancelled call
        raise asyncio.CancelledError from None
