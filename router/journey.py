"""One request's way through the services, again from where it was whenever one of them is lost.

Whatever ends it, its slab, its place and what the services know of it are given back.
"""

from __future__ import annotations

import array
import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from chassis.errors import RequestFailed, Unavailable
from protos import detokenizer_pb2, generation_pb2, tokenizer_pb2
from router import validation
from router.admission import Ticket
from router.connection import PAUSE_FIRST_S, PAUSE_MOST_S
from router.dispatcher import Dispatcher
from router.live_request import LiveRequest
from router.peer_errors import ReplicaLost, from_peer, is_away
from router.prompt_arena import Prompt, PromptArena
from router.tokenizer_link import TokenizerLink

# Ids that special tokens, or a template's own words, may add to the bytes of a text or a chat.
_MARGIN_IDS = 64
_CHAT_MARGIN_IDS = 512
_MESSAGE_MARGIN_IDS = 16


class Journeys:
    """Carries requests from their arrival to their end."""

    def __init__(
        self,
        tokenizer: TokenizerLink,
        dispatcher: Dispatcher,
        arena: PromptArena,
        recovery_s: float,
    ) -> None:
        """Use these services; wait `recovery_s` seconds for a text where one of them is away."""
        self._tokenizer = tokenizer
        self._dispatcher = dispatcher
        self._arena = arena
        self._recovery_s = recovery_s
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def carry(
        self, request: generation_pb2.GenerateRequest, request_id: str, steps_apart: int
    ) -> AsyncIterator[LiveRequest]:
        """Carry `request` to its end; inside the block its outbox fills.

        Raises:
            ServiceError: it cannot run, or its tokenizer stayed away.
        """
        validation.check_request(request)
        with self._dispatcher.arrival(request.priority) as ticket:
            limits = await self._dispatcher.limits()
            validation.check_against(request, limits)
            prompt = await self._read_prompt(request, request_id, limits)
            try:
                plan = validation.resolve(request, prompt.count, limits)
                live = LiveRequest(next(self._numbers), request_id, plan, prompt, steps_apart)
                async with _meanwhile(self._run(live, ticket, request), live):
                    yield live
            finally:
                prompt.close()

    async def decode(self, request: detokenizer_pb2.DecodeRequest) -> str:
        """Turn ids into text, by whichever detokenizer answers.

        Raises:
            Unavailable: none did.
            ServiceError: it failed.
        """
        pause_s = PAUSE_FIRST_S
        try:
            async with asyncio.timeout(self._recovery_s):
                while True:
                    replica = await self._dispatcher.any_replica()
                    try:
                        answer = await replica.detokenizer.Decode(request, timeout=self._recovery_s)
                        return answer.text
                    except aio.AioRpcError as error:
                        if not is_away(error):
                            raise from_peer(error, "detokenizer") from error
                    # Its stream may not have ended yet; it must not be asked again at once.
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MOST_S)
        except TimeoutError:
            raise Unavailable("the detokenizer is away") from None

    async def _run(
        self, live: LiveRequest, ticket: Ticket, request: generation_pb2.GenerateRequest
    ) -> None:
        """Run `live` to its end, on as many replicas as it takes."""
        await self._fill_echo(live, request)
        while True:
            placement = await self._dispatcher.place(ticket, live.demand)
            try:
                await placement.replica.carry(live, placement)
                return
            except ReplicaLost:
                live.attempt += 1
            finally:
                placement.free()
            try:
                await placement.replica.judge(live)
            except RequestFailed:
                self._dispatcher.ask_again()  # others are acquitted by it
                raise

    async def _read_prompt(
        self,
        request: generation_pb2.GenerateRequest,
        request_id: str,
        limits: validation.Limits,
    ) -> Prompt:
        """The ids of the prompt, in shared memory where there is room."""
        if request.WhichOneof("prompt") == "token_ids":
            count = len(request.token_ids.ids)
            if not 0 < count <= limits.most_tokens:
                validation.resolve(request, count, limits)  # says what is wrong
            return self._keep(array.array("i", request.token_ids.ids).tobytes())
        ask = tokenizer_pb2.EncodeRequest(request_id=request_id)
        if request.HasField("add_special_tokens"):
            ask.add_special_tokens = request.add_special_tokens
        text = request.text
        if request.WhichOneof("prompt") == "chat":
            ask.chat.CopyFrom(request.chat)
            ask.want_text = request.output.echo
        else:
            ask.text = text
        slab_ids = min(most_ids(request), limits.context_length + 1)
        answer, lease = await self._tokenizer.encode(ask, slab_ids)
        text = text or answer.text
        if lease is not None:
            return Prompt(answer.count, lease, text=text)
        return self._keep(answer.ids, text)

    def _keep(self, ids: bytes, text: str = "") -> Prompt:
        lease = self._arena.store(ids)
        return Prompt(len(ids) // 4, lease, b"" if lease else ids, text)

    async def _fill_echo(self, live: LiveRequest, request: generation_pb2.GenerateRequest) -> None:
        """Turn a prompt of ids into text, where it is to be echoed."""
        if not request.output.echo or request.WhichOneof("prompt") != "token_ids":
            return
        decode = detokenizer_pb2.DecodeRequest(
            request_id=live.request_id,
            token_ids=live.prompt.ids(),
            skip_special_tokens=skips_special_tokens(request.output),
        )
        live.prompt.text = await self.decode(decode)


@asynccontextmanager
async def _meanwhile(run: Coroutine[Any, Any, None], live: LiveRequest) -> AsyncIterator[None]:
    """Have `run` go on beside the block; whatever it fails with is what `live` ends with."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            live.fail(error)

    task = asyncio.create_task(run)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def skips_special_tokens(
    options: generation_pb2.OutputOptions | generation_pb2.DetokenizeRequest,
) -> bool:
    """Whether special tokens are left out of the text; they are unless told otherwise."""
    return options.skip_special_tokens if options.HasField("skip_special_tokens") else True


def most_ids(request: generation_pb2.GenerateRequest) -> int:
    """Ids that a prompt will hardly exceed: no token is made of less than a byte."""
    if request.WhichOneof("prompt") == "text":
        return _byte_count(request.text) + _MARGIN_IDS
    chat = request.chat
    content = sum(_byte_count(message.content) + _MESSAGE_MARGIN_IDS for message in chat.messages)
    return content + _byte_count(chat.tools_json) + _CHAT_MARGIN_IDS


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
