"""The asyncio client.

Whatever ends a call early, a cancelled task or an iterator that is closed, cancels it on the
server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from chassis.links.credentials import channel
from protos import generation_pb2 as pb
from protos import generation_pb2_grpc
from triptych import addresses
from triptych.client import requests, responses, results, retry
from triptych.client.connection import CHANNEL_OPTIONS, checked
from triptych.client.errors import Cancelled, Unavailable, decoded, typed_errors
from triptych.client.options import OptionChanges, Options, Prompt, choose
from triptych.client.retry import RETRY_S, Tries

T = TypeVar("T")


class AsyncClient:
    """A connection to a Triptych server, for one event loop; make it where that loop runs.

    Every method takes `Options`, or its fields as keywords, or both (keywords win), and raises
    `TriptychError` where the call fails. A request that finds no server is sent again for
    `retry_s` seconds; `on_retry` is called before each pause.
    """

    def __init__(
        self, address: str = addresses.PUBLIC, *, on_retry: retry.OnRetry | None = None
    ) -> None:
        self.address = checked(address)
        self._on_retry = on_retry
        self._closed = asyncio.Event()
        self._channel = channel(address, CHANNEL_OPTIONS)
        self._stub: generation_pb2_grpc.GenerationServiceAsyncStub = (
            generation_pb2_grpc.GenerationServiceStub(self._channel)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._closed.set()
        await self._channel.close()

    async def generate(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> results.Completion:
        """Continue `prompt` and wait for all of it."""
        chosen = choose(options, **changes)
        request = requests.generate_request(prompt, chosen)
        return responses.completion(await self._answer(self._stub.Generate, request, chosen))

    def stream(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[results.Delta, None]:
        """Continue `prompt` and yield what comes, message by message.

        The call starts with the first item. Leaving the loop cancels it as soon as the iterator is
        collected; `contextlib.aclosing` or `aclose()` cancels it at once.
        """
        chosen = choose(options, **changes)
        return self._deltas(requests.generate_request(prompt, chosen), chosen)

    async def tokenize(
        self,
        prompt: str | Sequence[Any],
        options: Options | None = None,
        **changes: Unpack[OptionChanges],
    ) -> results.Tokens:
        """Tokenise a text or a chat as `generate` would."""
        requests.check_names(changes, requests.TOKENIZE)
        chosen = choose(options, **changes)
        request = requests.tokenize_request(prompt, chosen)
        return responses.tokens(await self._answer(self._stub.Tokenize, request, chosen))

    async def detokenize(
        self, ids: Iterable[int], options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> str:
        """The text of token ids."""
        requests.check_names(changes, requests.DETOKENIZE)
        chosen = choose(options, **changes)
        request = requests.detokenize_request(ids, chosen)
        reply = await self._answer(self._stub.Detokenize, request, chosen)
        text: str = reply.text
        return text

    async def models(
        self, *, timeout: float | None = None, retry_s: float = RETRY_S
    ) -> tuple[results.Model, ...]:
        """The models served; `timeout` and `retry_s` as in `Options`."""
        chosen = Options(timeout=timeout, retry_s=retry_s)
        method = self._stub.ListModels
        return responses.models(await self._answer(method, pb.ListModelsRequest(), chosen))

    async def load(self, *, timeout: float | None = None, retry_s: float = RETRY_S) -> results.Load:
        """Ask how busy the server is; `timeout` and `retry_s` as in `Options`."""
        chosen = Options(timeout=timeout, retry_s=retry_s)
        return responses.load(await self._answer(self._stub.GetLoad, pb.GetLoadRequest(), chosen))

    async def _answer(self, method: Any, request: Any, chosen: Options) -> Any:
        tries = Tries(chosen.timeout, chosen.retry_s)
        return await self._retry(partial(_result, method, request), tries)

    async def _deltas(
        self, request: pb.GenerateRequest, chosen: Options
    ) -> AsyncGenerator[results.Delta, None]:
        tries = Tries(chosen.timeout, chosen.retry_s)
        call, first = await self._retry(partial(_begin, self._stub.GenerateStream, request), tries)
        try:
            with typed_errors(self.address, tries.made, begun=True):
                for message in first:
                    yield responses.delta(message)
                async for message in call:
                    yield responses.delta(decoded(message))
        finally:
            call.cancel()

    async def _retry(self, attempt: Callable[..., Awaitable[T]], tries: Tries) -> T:
        """Call `attempt(timeout=…)` until it finds a server; return its answer."""
        while True:
            timeout = tries.begin()
            try:
                with typed_errors(self.address, tries.made):
                    return await attempt(timeout=timeout)
            except (Unavailable, Cancelled) as error:
                away = retry.as_unavailable(error, closed=self._closed.is_set())
                await self._pause(away, tries)

    async def _pause(self, error: Unavailable, tries: Tries) -> None:
        pause_s = tries.pause_after(error)
        if self._on_retry is not None:
            self._on_retry(error, pause_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closed.wait()
            raise retry.closed_during_pause(error) from error
        tries.check_timeout(error)


async def _result(method: Any, request: Any, *, timeout: float | None) -> Any:
    return decoded(await method(request, timeout=timeout))


async def _begin(method: Any, request: Any, *, timeout: float | None) -> tuple[Any, list[Any]]:
    """A stream whose first message has come, and that message; none where it ended before."""
    call = method(request, timeout=timeout)
    with ExitStack() as unwinding:
        unwinding.callback(call.cancel)
        ended = object()
        first = await anext(aiter(call), ended)
        messages = [] if first is ended else [decoded(first)]
        unwinding.pop_all()
    return call, messages
