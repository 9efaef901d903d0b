"""The asyncio client.

Whatever ends a call early, a cancelled task or an iterator that is closed, cancels it on the
server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from grpc import aio

from protos import generation_pb2 as pb
from protos import generation_pb2_grpc
from triptych import addresses
from triptych.client import replies, requests, results
from triptych.client.connection import CHANNEL_OPTIONS
from triptych.client.failures import typed_errors
from triptych.client.options import OptionChanges, Options, Prompt, choose


class AsyncClient:
    """A connection to a Triptych server, for one event loop; make it where that loop runs.

    Every method takes `Options`, or its fields as keywords, or both (keywords win), and raises
    `TriptychError` where the call fails.
    """

    def __init__(self, address: str = addresses.PUBLIC) -> None:
        self.address = address
        self._channel = aio.insecure_channel(address, options=CHANNEL_OPTIONS)
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
        await self._channel.close()

    async def generate(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> results.Completion:
        """Continue `prompt` and wait for all of it."""
        chosen = choose(options, **changes)
        request = requests.generate_request(prompt, chosen)
        with typed_errors(self.address):
            return replies.completion(await self._stub.Generate(request, timeout=chosen.timeout))

    def stream(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[results.Delta, None]:
        """Continue `prompt` and yield what comes, message by message.

        The call starts with the first item. Leaving the loop cancels it as soon as the iterator is
        collected; `contextlib.aclosing` or `aclose()` cancels it at once.
        """
        chosen = choose(options, **changes)
        return self._deltas(requests.generate_request(prompt, chosen), chosen.timeout)

    async def tokenize(
        self,
        prompt: str | Sequence[Any],
        options: Options | None = None,
        **changes: Unpack[OptionChanges],
    ) -> results.Tokens:
        """Tokenise a text or a chat as `generate` would."""
        chosen = choose(options, **changes)
        request = requests.tokenize_request(prompt, chosen)
        with typed_errors(self.address):
            return replies.tokens(await self._stub.Tokenize(request, timeout=chosen.timeout))

    async def detokenize(
        self, ids: Iterable[int], options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> str:
        """The text of token ids."""
        chosen = choose(options, **changes)
        request = requests.detokenize_request(ids, chosen)
        with typed_errors(self.address):
            return (await self._stub.Detokenize(request, timeout=chosen.timeout)).text

    async def models(self, *, timeout: float | None = None) -> tuple[results.Model, ...]:
        """The models served."""
        with typed_errors(self.address):
            return replies.models(
                await self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout)
            )

    async def load(self, *, timeout: float | None = None) -> results.Load:
        """How busy the server is."""
        with typed_errors(self.address):
            return replies.load(await self._stub.GetLoad(pb.GetLoadRequest(), timeout=timeout))

    async def _deltas(
        self, request: pb.GenerateRequest, timeout: float | None
    ) -> AsyncGenerator[results.Delta, None]:
        with typed_errors(self.address):
            call = self._stub.GenerateStream(request, timeout=timeout)
            try:
                async for message in call:
                    yield replies.delta(message)
            finally:
                call.cancel()
