"""Prompts on their way from a request to the ids that a model runs.

A prompt that cannot fit is refused before the tokenizer sees it, or by the tokenizer as soon as it
knows.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence

from router.links.tokenizer_link import Question, TokenizerLink, question_of
from router.requests import validation
from router.requests.generation_request import (
    ChatPrompt,
    GenerationRequest,
    IdsPrompt,
    TextPrompt,
    byte_count,
)
from router.requests.prompt_arena import Prompt, PromptArena
from router.requests.sizes import Sizes


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
        self, request: GenerationRequest, request_id: str, limits: validation.Limits
    ) -> Prompt:
        """The ids of the prompt, in shared memory where there is room.

        Raises:
            ServiceError: the prompt cannot run, or the tokenizer stayed away.
        """
        prompt, echo, truncate = (
            request.prompt,
            request.output.echo,
            request.truncate_prompt_tokens,
        )
        if isinstance(prompt, IdsPrompt):
            ids = array.array("i", validation.kept_ids(prompt.ids, truncate, limits)).tobytes()
            bad_words = await self._encode_bad_words(request.sampling.bad_words, request_id)
            return self._keep(ids, bad_words=bad_words)
        if isinstance(prompt, TextPrompt):
            self._sizes().check_text(
                validation.PROMPT, byte_count(prompt.text), truncated=truncate > 0
            )
        question = _question(prompt, request, request_id, limits)
        slab_ids = min(prompt.most_ids, limits.context_length + 1)
        text = prompt.text if echo and isinstance(prompt, TextPrompt) else ""
        del request, prompt  # two copies of a long prompt are one too many
        encoded = await self._tokenizer.encode(question, slab_ids)
        text = text or encoded.text
        if encoded.count == truncate:  # it is the text of more
            text = ""
        if encoded.slab is not None:
            return Prompt(encoded.count, encoded.slab, text=text, bad_words=encoded.bad_words)
        return self._keep(encoded.ids, text, encoded.bad_words)

    async def _encode_bad_words(
        self, words: Sequence[str], request_id: str
    ) -> Sequence[Sequence[int]]:
        """Ids of bad words, where the prompt needs no tokenizer."""
        if not words:
            return ()
        question = question_of(TextPrompt(""), False, request_id)
        question.bad_words.extend(words)
        return (await self._tokenizer.encode(question, 0)).bad_words

    def _keep(self, ids: bytes, text: str = "", bad_words: Sequence[Sequence[int]] = ()) -> Prompt:
        slab = self._arena.store(ids)
        return Prompt(len(ids) // 4, slab, b"" if slab else ids, text=text, bad_words=bad_words)


def _question(
    prompt: TextPrompt | ChatPrompt,
    request: GenerationRequest,
    request_id: str,
    limits: validation.Limits,
) -> Question:
    """The request to encode a text or chat."""
    question = question_of(prompt, request.add_special_tokens, request_id)
    if truncate := request.truncate_prompt_tokens:
        question.truncate_ids = truncate
    else:
        question.most_ids = limits.most_tokens
    if words := request.sampling.bad_words:
        question.bad_words.extend(words)
    if request.output.echo and isinstance(prompt, ChatPrompt):
        question.want_text = True
    return question
