"""The blocking client.

Whatever ends a call early, an exception or an iterator that is left, cancels it on the server.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from protos import generation_pb2 as pb
from protos import generation_pb2_grpc
from triptych import addresses
from triptych.client import replies, requests, results
from triptych.client.connection import CHANNEL_OPTIONS
from triptych.client.failures import typed_errors
from triptych.client.options import OptionChanges, Options, Prompt, choose


class Client:
    """A connection to a Triptych server; may be used from several threads.

    Every method takes `Options`, or its fields as keywords, or both (keywords win), and raises
    `TriptychError` where the call fails.
    """

    def __init__(self, address: str = addresses.PUBLIC) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def generate(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> results.Completion:
        """Continue `prompt` and wait for all of it."""
        chosen = choose(options, **changes)
        request = requests.generate_request(prompt, chosen)
        return replies.completion(self._wait(self._stub.Generate, request, chosen.timeout))

    def stream(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> Generator[results.Delta, None, None]:
        """Continue `prompt` and yield what comes, message by message.

        The call starts with the first `next`. Leaving the loop, or `close()`, cancels it.
        """
        chosen = choose(options, **changes)
        return self._deltas(requests.generate_request(prompt, chosen), chosen.timeout)

    def tokenize(
        self,
        prompt: str | Sequence[Any],
        options: Options | None = None,
        **changes: Unpack[OptionChanges],
    ) -> results.Tokens:
        """Tokenise a text or a chat as `generate` would."""
        chosen = choose(options, **changes)
        request = requests.tokenize_request(prompt, chosen)
        return replies.tokens(self._wait(self._stub.Tokenize, request, chosen.timeout))

    def detokenize(
        self, ids: Iterable[int], options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> str:
        """The text of token ids."""
        chosen = choose(options, **changes)
        request = requests.detokenize_request(ids, chosen)
        text: str = self._wait(self._stub.Detokenize, request, chosen.timeout).text
        return text

    def models(self, *, timeout: float | None = None) -> tuple[results.Model, ...]:
        """The models served."""
        return replies.models(self._wait(self._stub.ListModels, pb.ListModelsRequest(), timeout))

    def load(self, *, timeout: float | None = None) -> results.Load:
        """How busy the server is."""
        return replies.load(self._wait(self._stub.GetLoad, pb.GetLoadRequest(), timeout))

    def _wait(self, method: Any, request: Any, timeout: float | None) -> Any:
        with typed_errors(self.address):
            call = method.future(request, timeout=timeout)
            try:
                return call.result()
            finally:
                call.cancel()  # no effect on a call that has ended; Ctrl-C leaves one that has not

    def _deltas(
        self, request: pb.GenerateRequest, timeout: float | None
    ) -> Generator[results.Delta, None, None]:
        with typed_errors(self.address):
            call = self._stub.GenerateStream(request, timeout=timeout)
            try:
                for message in call:
                    yield replies.delta(message)
            finally:
                call.cancel()
