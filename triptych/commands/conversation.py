"""The turns of a chat, and how many of them fit the model's context.

Only turns that were answered are kept, so a refused one can be asked again differently.
"""

from __future__ import annotations

import math

from triptych.client import Client, InvalidRequest, Message, Options, Usage

_ANSWER_TOKENS = 256  # room for an answer whose length nobody limits
_TURN_TOKENS = 32  # what a template may put around a message


class Conversation:
    """Messages so far, the system message first.

    Args:
        client: of the server whose tokenizer counts.
        system: the system message; None: there is none.
    """

    def __init__(self, client: Client, system: str | None) -> None:
        self._client = client
        self._system = [Message("system", system)] if system else []
        self._turns: list[Message] = []
        self._tokens = 0

    def reset(self) -> None:
        """Forget every turn."""
        self._turns, self._tokens = [], 0

    def fit(
        self, entry: str, options: Options, context_length: int | None
    ) -> tuple[list[Message], int]:
        """The messages that ask `entry`, without the oldest turns where not all fit.

        Args:
            entry: what the user says.
            options: as they will be sent with the messages.
            context_length: of the model; None: unknown, and everything is sent.

        Returns:
            The messages, and the number of turns left out; a turn is a question and its answer.
        """
        asked = Message("user", entry)
        turns = self._turns
        if context_length is not None and turns:
            room = context_length - _answer_tokens(options, context_length)
            if self._tokens + len(entry.encode()) + _TURN_TOKENS > room:
                while turns and self._count([*self._system, *turns, asked], options) > room:
                    turns = turns[2:]
        return [*self._system, *turns, asked], (len(self._turns) - len(turns)) // 2

    def remember(self, asked: list[Message], answer: str, usage: Usage | None) -> None:
        """Keep a turn that was answered; `usage` is None where the answer was cut short."""
        self._turns = [*asked[len(self._system) :], Message("assistant", answer)]
        if usage is None:
            said = f"{asked[-1].content}{answer}"
            self._tokens += len(said.encode()) + 2 * _TURN_TOKENS
        else:
            self._tokens = usage.prompt_tokens + usage.completion_tokens

    def _count(self, messages: list[Message], options: Options) -> float:
        """Tokens of `messages`; infinite where the server refuses to count so long a text."""
        chosen = Options(model=options.model, timeout=options.timeout, retry_s=options.retry_s)
        try:
            return len(self._client.tokenize(messages, chosen).ids)
        except InvalidRequest:
            return math.inf


def _answer_tokens(options: Options, context_length: int) -> int:
    if options.max_tokens is not None:
        return options.max_tokens
    return min(_ANSWER_TOKENS, context_length // 4)
