"""gRPC face of the router: `triptych.v1.GenerationService`.

Every call about a request has an id, told in its answers, its initial metadata and its log lines.
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
from chassis.serving.introspection import triptych_version
from protos import detokenizer_pb2, generation_pb2, generation_pb2_grpc, tokenizer_pb2
from router.api.message_limits import Sizes
from router.api.request_log import RequestLog
from router.api.responses import prompt_of, tokens_of, usage_of
from router.links.tokenizer_link import TokenizerLink
from router.metrics import RouterMetrics
from router.placement.dispatcher import Dispatcher
from router.prompts import put_prompt
from router.request_runner import RequestRunner, skips_special_tokens
from router.requests import validation
from router.requests.delta_buffer import MERGED, STEPS_APART
from router.requests.request import RouterRequest

REQUEST_ID_KEY = "x-request-id"

Context = aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Answer `triptych.v1.GenerationService`."""

    def __init__(
        self,
        runner: RequestRunner,
        tokenizer: TokenizerLink,
        dispatcher: Dispatcher,
        sizes: Callable[[], Sizes],
        metrics: RouterMetrics,
    ) -> None:
        self._journeys = runner
        self._tokenizer = tokenizer
        self._dispatcher = dispatcher
        self._sizes = sizes
        self._metrics = metrics

    async def Generate(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> generation_pb2.GenerateResponse:
        """Run a prompt to its end."""
        running = self._running(request, context, MERGED)
        del request  # it is dropped once it is read
        async with running as live:
            candidates = await live.outbox.take_all()
            return generation_pb2.GenerateResponse(
                request_id=live.request_id,
                candidates=candidates,
                usage=usage_of(live),
                prompt=await prompt_of(live),
            )

    async def GenerateStream(  # type: ignore[override]  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> None:
        """Run a prompt, writing each step's text as it comes."""
        running = self._running(request, context, STEPS_APART)
        del request  # it is dropped once it is read
        async with running as live:
            first = True
            while not live.outbox.drained:
                deltas = await live.outbox.take()
                message = generation_pb2.GenerateStreamResponse(
                    request_id=live.request_id,
                    deltas=deltas,
                    prompt=await prompt_of(live) if first else None,
                    usage=usage_of(live) if live.outbox.drained else None,
                )
                first = False
                await _write(context, message)

    async def Tokenize(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        """Turn text or a chat into ids."""
        with self._recorded("Tokenize", context) as request_id:
            validation.check_prompt(request)
            validation.check_model(request.model, await self._dispatcher.limits())
            ask = tokenizer_pb2.EncodeRequest(request_id=request_id, want_tokens=True)
            put_prompt(ask, request)
            answer, _ = await self._tokenizer.encode(ask, 0)
            response = await tokens_of(answer)
            self._sizes().check_answer(str(request.WhichOneof("prompt")), response.ByteSize())
            return response

    async def Detokenize(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        """Turn ids into text."""
        with self._recorded("Detokenize", context) as request_id:
            limits = await self._dispatcher.limits()
            validation.check_model(request.model, limits)
            validation.check_ids("token_ids", request.token_ids, limits)
            decode = detokenizer_pb2.DecodeRequest(
                request_id=request_id,
                token_ids=request.token_ids,
                skip_special_tokens=skips_special_tokens(request),
            )
            return generation_pb2.DetokenizeResponse(text=await self._journeys.decode(decode))

    async def ListModels(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        """List the model, once a replica has told it."""
        model = self._dispatcher.model()
        if model is None:
            return generation_pb2.ListModelsResponse()
        told = generation_pb2.Model()
        told.CopyFrom(model)
        told.version = told.version or triptych_version()
        return generation_pb2.ListModelsResponse(models=[told])

    async def GetLoad(  # noqa: N802  (name fixed by the proto)
        self, request: generation_pb2.GetLoadRequest, context: Context
    ) -> generation_pb2.GetLoadResponse:
        """Tell what waits and runs."""
        replicas = [replica.describe() for replica in self._dispatcher.replicas]
        return generation_pb2.GetLoadResponse(
            queued=self._dispatcher.queued,
            running=self._dispatcher.running,
            kv_slots_used=sum(replica.kv_slots_used for replica in replicas),
            kv_slots_total=sum(replica.kv_slots_total for replica in replicas),
            replicas=replicas,
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
        """Carry `request` for the block, recorded under its id."""
        given = _given_id(request.request_id, context)
        request_id = _usable_id(given)
        prompt_field = validation.prompt_field(request)
        with logs.about(request_id), RequestLog(self._metrics, context) as record:
            try:
                validation.check_request_id(given)
                deadline = _deadline(context)
                carried = self._journeys.carry(request, request_id, steps_apart, deadline)
                del request
                async with carried as live:
                    record.live = live
                    # Now, because the model is at work meanwhile.
                    await _tell_id(context, request_id)
                    yield live
            except ServiceError as error:
                if record.live is None:
                    await _tell_id(context, request_id)
                raise _with_path(error, prompt_field) from error


def _given_id(given: str, context: Context) -> str:
    """The id that a caller gave in the request, else in its metadata; empty: none."""
    if not given:
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                given = value
    return given


def _usable_id(given: str) -> str:
    """`given`, or an id made up where there is none that can be told."""
    try:
        validation.check_request_id(given)
    except InvalidRequest:
        given = ""
    return given or secrets.token_hex(6)


def _with_path(error: ServiceError, prompt_field: str) -> ServiceError:
    """`error` with the path of the prompt in the caller's request, where it is about the prompt."""
    if isinstance(error, InvalidRequest) and error.field == "prompt":
        return InvalidRequest(prompt_field, error.description)
    return error


def _deadline(context: Context) -> float | None:
    """The end of the caller's patience, by the loop's clock; None: there is none."""
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
