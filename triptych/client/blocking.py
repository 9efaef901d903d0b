"""The blocking client.

Whatever ends a call early, an exception or an iterator that is left, cancels it on the server.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from chassis.links.credentials import blocking_channel
from protos import generation_pb2 as pb
from protos import generation_pb2_grpc
from triptych import addresses
from triptych.client import requests, responses, results, retry
from triptych.client.connection import CHANNEL_OPTIONS, checked
from triptych.client.errors import Cancelled, Unavailable, typed_errors
from triptych.client.options import OptionChanges, Options, Prompt, choose
from triptych.client.retry import RETRY_S, Tries

T = TypeVar("T")


class Client:
    """A connection to a Triptych server; may be used from several threads.

    Every method takes `Options`, or its fields as keywords, or both (keywords win), and raises
    `TriptychError` where the call fails. A request that finds no server is sent again for
    `retry_s` seconds; `on_retry` is called before each pause, in the thread that calls.
    """

    def __init__(
        self, address: str = addresses.PUBLIC, *, on_retry: retry.OnRetry | None = None
    ) -> None:
        self.address = checked(address)
        self._on_retry = on_retry
        self._closed = threading.Event()
        self._channel = blocking_channel(address, CHANNEL_OPTIONS)
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
        self._closed.set()
        self._channel.close()

    def generate(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> results.Completion:
        """Continue `prompt` and wait for all of it."""
        chosen = choose(options, **changes)
        request = requests.generate_request(prompt, chosen)
        return responses.completion(self._answer(self._stub.Generate, request, chosen))

    def stream(
        self, prompt: Prompt, options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> Generator[results.Delta, None, None]:
        """Continue `prompt` and yield what comes, message by message.

        The call starts with the first `next`. Leaving the loop, or `close()`, cancels it.
        """
        chosen = choose(options, **changes)
        return self._deltas(requests.generate_request(prompt, chosen), chosen)

    def tokenize(
        self,
        prompt: str | Sequence[Any],
        options: Options | None = None,
        **changes: Unpack[OptionChanges],
    ) -> results.Tokens:
        """Tokenise a text or a chat as `generate` would."""
        requests.check_names(changes, requests.TOKENIZE)
        chosen = choose(options, **changes)
        request = requests.tokenize_request(prompt, chosen)
        return responses.tokens(self._answer(self._stub.Tokenize, request, chosen))

    def detokenize(
        self, ids: Iterable[int], options: Options | None = None, **changes: Unpack[OptionChanges]
    ) -> str:
        """The text of token ids."""
        requests.check_names(changes, requests.DETOKENIZE)
        chosen = choose(options, **changes)
        request = requests.detokenize_request(ids, chosen)
        text: str = self._answer(self._stub.Detokenize, request, chosen).text
        return text

    def models(
        self, *, timeout: float | None = None, retry_s: float = RETRY_S
    ) -> tuple[results.Model, ...]:
        """The models served; `timeout` and `retry_s` as in `Options`."""
        chosen = Options(timeout=timeout, retry_s=retry_s)
        return responses.models(self._answer(self._stub.ListModels, pb.ListModelsRequest(), chosen))

    def load(self, *, timeout: float | None = None, retry_s: float = RETRY_S) -> results.Load:
        """Ask how busy the server is; `timeout` and `retry_s` as in `Options`."""
        chosen = Options(timeout=timeout, retry_s=retry_s)
        return responses.load(self._answer(self._stub.GetLoad, pb.GetLoadRequest(), chosen))

    def _answer(self, method: Any, request: Any, chosen: Options) -> Any:
        tries = Tries(chosen.timeout, chosen.retry_s)
        return self._retry(partial(_result, method, request), tries)

    def _deltas(
        self, request: pb.GenerateRequest, chosen: Options
    ) -> Generator[results.Delta, None, None]:
        tries = Tries(chosen.timeout, chosen.retry_s)
        call, first = self._retry(partial(_begin, self._stub.GenerateStream, request), tries)
        try:
            with typed_errors(self.address, tries.made, begun=True):
                for message in itertools.chain(first, call):
                    yield responses.delta(message)
        finally:
            call.cancel()

    def _retry(self, attempt: Callable[..., T], tries: Tries) -> T:
        """Call `attempt(timeout=…)` until it finds a server; return its answer."""
        while True:
            timeout = tries.begin()
            try:
                with typed_errors(self.address, tries.made):
                    return attempt(timeout=timeout)
            except (Unavailable, Cancelled) as error:
                away = retry.as_unavailable(error, closed=self._closed.is_set())
                self._pause(away, tries)

    def _pause(self, error: Unavailable, tries: Tries) -> None:
        pause_s = tries.pause_after(error)
        if self._on_retry is not None:
            self._on_retry(error, pause_s)
        if self._closed.wait(pause_s):
            raise retry.closed_during_pause(error) from error
        tries.check_timeout(error)


def _result(method: Any, request: Any, *, timeout: float | None) -> Any:
    call = method.future(request, timeout=timeout)
    try:
        return call.result()
    finally:
        call.cancel()  # no effect on a call that has ended; Ctrl-C leaves one that has not


def _begin(method: Any, request: Any, *, timeout: float | None) -> tuple[Any, list[Any]]:
    """A stream whose first message has come, and that message; none where it ended before."""
    call = method(request, timeout=timeout)
    with ExitStack() as unwinding:
        unwinding.callback(call.cancel)
        first = list(itertools.islice(call, 1))
        unwinding.pop_all()
    return call, first
