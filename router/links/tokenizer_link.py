"""The router's side of the tokenizer: prompts in, ids out.

Ids of short prompts come in the prompt arena where it is shared. A slab stays out of circulation
until its Encode has answered, whatever becomes of the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.errors import StartError, Unavailable, error_info
from chassis.links.channels import open_channel
from chassis.links.reconnecting_stream import Reconnector
from chassis.serving.introspection import medium
from protos import tokenizer_pb2, tokenizer_pb2_grpc
from router.links.peer_errors import from_peer, is_away
from router.requests.generation_request import ChatPrompt, TextPrompt
from router.requests.prompt_arena import PromptArena, Slab

log = logging.getLogger(__name__)

ATTACH_TIMEOUT_S = 5.0

# Only some prompts are encoded at once; the others wait here, where they cost little and end with
# their request. Long ones have places of their own, so that short ones never wait for them. A long
# one is called back when its request ends, and so gets its ids inline: a worker may be writing to a
# slab at that moment. A short one is not worth it: it goes on to its end, and keeps its slab.
LONG_PROMPT_BYTES = 8192
LONG_AT_ONCE = 8
SHORT_AT_ONCE = 256

Answer = tokenizer_pb2.EncodeResponse | aio.AioRpcError
Question = tokenizer_pb2.EncodeRequest


@dataclass(slots=True)
class Encoded:
    """A prompt that the tokenizer has encoded.

    Attributes:
        count: number of ids.
        slab: holds the ids, int32; None: `ids` does. Its receiver releases it.
        ids: int32, little-endian.
        text: text of the prompt, where asked for.
        tokens: bytes of each id, where asked for.
        bad_words: sequences of ids that the output may not have.
    """

    count: int
    slab: Slab | None = None
    ids: bytes = b""
    text: str = ""
    tokens: Sequence[bytes] = ()
    bad_words: Sequence[Sequence[int]] = ()


def question_of(
    prompt: TextPrompt | ChatPrompt, add_special_tokens: bool | None, request_id: str
) -> Question:
    """The request to encode a prompt; further options may be set in it."""
    question = tokenizer_pb2.EncodeRequest(
        request_id=request_id, add_special_tokens=add_special_tokens
    )
    if isinstance(prompt, ChatPrompt):
        question.chat.MergeFromString(prompt.encoded)
    else:
        question.text = prompt.text
    return question


class TokenizerLink:
    """One tokenizer service, found again whenever it comes back.

    Attributes:
        address: of the service.
        bytes_per_id: bytes of text that one id stands for at most; 0: not known.
    """

    def __init__(
        self,
        address: str,
        arena: PromptArena,
        *,
        recovery_s: float,
        max_message_mib: int,
        changed: Callable[[], None],
        arena_renewed: Callable[[], None],
    ) -> None:
        """Prepare the link.

        Args:
            address: of the tokenizer.
            arena: where ids go.
            recovery_s: seconds that a call waits for the tokenizer.
            max_message_mib: largest message, in MiB.
            changed: called when readiness changes.
            arena_renewed: called when the arena has a new file, which other peers need to see.
        """
        self.address = address
        self.bytes_per_id = 0
        self._arena = arena
        self._recovery_s = recovery_s
        self._changed = changed
        self._arena_renewed = arena_renewed
        self._channel = open_channel(address, max_message_mib=max_message_mib)
        self._stub = tokenizer_pb2_grpc.TokenizerServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._watch = Reconnector(self._watch_health)
        self._ready = asyncio.Event()
        self._proven = ""  # the arena file that the tokenizer has shown to see
        self._tasks = asyncio.TaskGroup()
        self._places = asyncio.Semaphore(SHORT_AT_ONCE)
        self._long_places = asyncio.Semaphore(LONG_AT_ONCE)

    @property
    def ready(self) -> bool:
        """True while it serves."""
        return self._ready.is_set()

    @property
    def shares(self) -> bool:
        """True while ids come through shared memory."""
        file = self._arena.file
        return file is not None and file.name == self._proven

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        async with self._channel, self._tasks:
            await self._watch.run()

    async def encode(self, question: Question, slab_ids: int) -> Encoded:
        """Encode one prompt, waiting for the tokenizer and asking again where it went away.

        Args:
            question: without a slab.
            slab_ids: size of the slab to lend, in ids; 0: none.

        Raises:
            Unavailable: the tokenizer stayed away.
            ServiceError: it refused the prompt.
        """
        try:
            async with asyncio.timeout(self._recovery_s):
                while True:
                    await self._ready.wait()
                    answer, slab = await self._ask(question, slab_ids)
                    if not isinstance(answer, aio.AioRpcError):
                        return _encoded(answer, slab)
                    if not is_away(answer):
                        raise from_peer(answer, "tokenizer")
                    self._lost()
        except TimeoutError:
            raise Unavailable("the tokenizer is away") from None

    async def _ask(self, question: Question, slab_ids: int) -> tuple[Answer, Slab | None]:
        """Ask once, when there is a place."""
        if question.ByteSize() < LONG_PROMPT_BYTES:
            return await self._ask_short(question, slab_ids)
        question.ClearField("slab")
        async with self._long_places:
            return await self._call(question, None), None

    async def _ask_short(self, question: Question, slab_ids: int) -> tuple[Answer, Slab | None]:
        """Ask once. The call goes on where the caller is cancelled, and lets the slab go then."""
        await self._places.acquire()
        slab = self._arena.lend(slab_ids) if slab_ids and self.shares else None
        if slab is not None:
            question.slab.CopyFrom(slab.span)
            slab.hold()
        else:
            question.ClearField("slab")
        kept = False
        try:
            call = self._tasks.create_task(self._call(question, slab))
            call.add_done_callback(lambda _: self._places.release())
            answer = await asyncio.shield(call)
            kept = isinstance(answer, tokenizer_pb2.EncodeResponse) and answer.in_slab
            return answer, slab if kept else None
        finally:
            if slab is not None and not kept:
                slab.release()

    async def _call(self, question: Question, slab: Slab | None) -> Answer:
        try:
            return await self._stub.Encode(question, timeout=self._recovery_s)
        except aio.AioRpcError as error:
            # Unless the service itself has answered, a worker of it may still be writing.
            if slab is not None and error_info(error) is None:
                self._retire(slab.span.name)
            return error
        finally:
            if slab is not None:
                slab.release()

    def _retire(self, name: str) -> None:
        if self._arena.retire(name):
            log.warning("shared memory for prompts is replaced", extra={"file": name})
            self._tasks.create_task(self._renew())

    async def _renew(self) -> None:
        """Begin a new arena, and have all peers look at it."""
        try:
            await asyncio.to_thread(self._arena.renew)  # reserving pages takes milliseconds
        except StartError as error:
            log.warning("prompts are sent in messages from now on", extra={"cause": str(error)})
            return
        self._arena_renewed()
        if self.ready:  # else it is attached to once it is back
            await self._attach()

    async def _watch_health(self) -> bool:
        """Follow the tokenizer's health until it ends; attach each time it begins to serve."""
        call = self._health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        accepted = False
        try:
            while (answer := await call.read()) is not aio.EOF:
                accepted = True
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    await self._attach()
                    await self._learn()
                    self._set_ready(True)
                else:
                    self._set_ready(False)
        except aio.AioRpcError as error:
            log.debug("cannot watch the tokenizer's health", extra={"cause": error.details()})
        finally:
            call.cancel()
            self._set_ready(False)
        return accepted

    async def _attach(self) -> None:
        """Show the tokenizer the arena; without its proof ids come inline."""
        self._proven = ""
        described = self._arena.describe()
        if not described.name:
            return
        request = tokenizer_pb2.AttachRequest(arena=described)
        try:
            answer = await self._stub.Attach(request, timeout=ATTACH_TIMEOUT_S)
        except aio.AioRpcError as error:
            log.warning("prompts are sent in messages", extra={"cause": error.details()})
            return
        if self._arena.proven_by(described.name, answer.proof):
            self._proven = described.name

    async def _learn(self) -> None:
        """Ask for the bound on the length of a text; a tokenizer that has none bounds nothing."""
        request = tokenizer_pb2.GetVocabularyRequest()
        try:
            answer = await self._stub.GetVocabulary(request, timeout=ATTACH_TIMEOUT_S)
        except aio.AioRpcError as error:
            log.info(
                "only the settings limit the length of texts", extra={"cause": error.details()}
            )
            return
        self.bytes_per_id = answer.most_bytes_per_id

    def _lost(self) -> None:
        """Wait for the tokenizer's health, after a call found it gone."""
        self._set_ready(False)
        self._watch.restart()

    def _set_ready(self, ready: bool) -> None:
        if ready == self.ready:
            return
        if ready:
            self._ready.set()
        else:
            self._proven = ""
            self._ready.clear()
        extra = {"address": self.address}
        if ready:
            log.info("tokenizer connected (%s)", medium(self.shares), extra=extra)
        else:
            log.info("tokenizer disconnected", extra=extra)
        self._changed()


def _encoded(answer: tokenizer_pb2.EncodeResponse, slab: Slab | None) -> Encoded:
    bad_words = [tuple(words.ids) for words in answer.bad_words] if answer.bad_words else ()
    return Encoded(answer.count, slab, answer.ids, answer.text, answer.tokens, bad_words)
