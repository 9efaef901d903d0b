"""Prompts on their way from a request to the ids that a model runs.

What cannot fit is refused before the tokenizer sees it, and by the tokenizer as soon as it knows.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence

from protos import generation_pb2, tokenizer_pb2
from router.api.message_limits import Sizes
from router.links.tokenizer_link import TokenizerLink
from router.requests import validation
from router.requests.prompt_arena import Prompt, PromptArena

# Ids that special tokens, or a template's own words, may add to the bytes of a text or a chat.
_MARGIN_IDS = 64
_CHAT_MARGIN_IDS = 512
_MESSAGE_MARGIN_IDS = 16


class PromptReader:
    """Reads the prompts of requests into the arena."""

    def __init__(
        self, tokenizer: TokenizerLink, arena: PromptArena, sizes: Callable[[], Sizes]
    ) -> None:
        """Use these; `sizes` is asked for each prompt."""
        self._tokenizer = tokenizer
        self._arena = arena
        self._sizes = sizes

    async def read(
        self, request: generation_pb2.GenerateRequest, request_id: str, limits: validation.Limits
    ) -> Prompt:
        """The ids of the prompt, in shared memory where there is room.

        Raises:
            ServiceError: the prompt cannot run, or the tokenizer stayed away.
        """
        if request.WhichOneof("prompt") == "token_ids":
            ids = array.array("i", validation.sent_ids(request, limits)).tobytes()
            bad_words = await self._encode_bad_words(request, request_id)
            return self._keep(ids, bad_words=bad_words)
        ask = self._question(request, request_id, limits)
        slab_ids = min(most_ids(request), limits.context_length + 1)
        text = request.text if request.output.echo else ""
        del request  # two copies of a long prompt are one too many
        answer, lease = await self._tokenizer.encode(ask, slab_ids)
        text = text or answer.text
        if answer.count == ask.truncate_ids:  # it is the text of more
            text = ""
        if lease is not None:
            return Prompt(answer.count, lease, text=text, bad_words=answer.bad_words)
        return self._keep(answer.ids, text, answer.bad_words)

    async def _encode_bad_words(
        self, request: generation_pb2.GenerateRequest, request_id: str
    ) -> Sequence[generation_pb2.TokenIds]:
        """The sequences that bad words are written with, where the prompt needs no tokenizer."""
        if not request.sampling.bad_words:
            return ()
        words = request.sampling.bad_words
        ask = tokenizer_pb2.EncodeRequest(request_id=request_id, text="", bad_words=words)
        ask.add_special_tokens = False
        answer, _ = await self._tokenizer.encode(ask, 0)
        return answer.bad_words

    def _question(
        self, request: generation_pb2.GenerateRequest, request_id: str, limits: validation.Limits
    ) -> tokenizer_pb2.EncodeRequest:
        """The tokenizer's request for a text or chat."""
        truncated = request.truncate_prompt_tokens > 0
        ask = tokenizer_pb2.EncodeRequest(
            request_id=request_id,
            most_ids=0 if truncated else limits.most_tokens,
            truncate_ids=request.truncate_prompt_tokens,
            bad_words=request.sampling.bad_words,
        )
        if request.WhichOneof("prompt") == "chat":
            ask.want_text = request.output.echo
        else:
            size = byte_count(request.text)
            self._sizes().check_text("text", size, truncated=truncated)
        put_prompt(ask, request)
        return ask

    def _keep(
        self, ids: bytes, text: str = "", bad_words: Sequence[generation_pb2.TokenIds] = ()
    ) -> Prompt:
        lease = self._arena.store(ids)
        return Prompt(len(ids) // 4, lease, b"" if lease else ids, text=text, bad_words=bad_words)


def put_prompt(
    ask: tokenizer_pb2.EncodeRequest,
    request: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest,
) -> None:
    """Copy the text or chat of `request` into `ask`, and which special tokens it gets."""
    if request.WhichOneof("prompt") == "chat":
        ask.chat.CopyFrom(request.chat)
    else:
        ask.text = request.text
    if request.HasField("add_special_tokens"):
        ask.add_special_tokens = request.add_special_tokens


def without_prompt(request: generation_pb2.GenerateRequest) -> generation_pb2.GenerateRequest:
    """Copy `request` without what makes it long; the kind of its prompt stays known."""
    light = generation_pb2.GenerateRequest(
        request_id=request.request_id,
        sampling=request.sampling,
        stop=request.stop,
        output=request.output,
        priority=request.priority,
        truncate_prompt_tokens=request.truncate_prompt_tokens,
    )
    match request.WhichOneof("prompt"):
        case "text":
            light.text = ""
        case "token_ids":
            light.token_ids.SetInParent()
        case "chat":
            light.chat.SetInParent()
    return light


def most_ids(request: generation_pb2.GenerateRequest) -> int:
    """Ids that a prompt will hardly exceed: no token is made of less than a byte."""
    if request.WhichOneof("prompt") == "text":
        return byte_count(request.text) + _MARGIN_IDS
    around = _MESSAGE_MARGIN_IDS * len(request.chat.messages) + _CHAT_MARGIN_IDS
    return request.chat.ByteSize() + around


def byte_count(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
