"""The requests of a round: 32 of mixed kinds, the same in every round.

Each has a seed or is greedy, so that in float32 its answer is one and the same whatever happens.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from triptych.client import Message, Options, Prompt

POISON_TOKEN = 4095
"""A token of the bundled model that none of the prompts holds."""

_CALL_S = 150.0  # more than a request waits for recovery
_NOUNS = ("path", "lines", "node", "stream", "queue", "index", "token", "buffer", "parser", "value")
_VERBS = ("read", "close", "append", "update", "encode", "split", "flush", "match", "visit", "pop")
_SHORT = (
    "def read_file(path):\n",
    "class Queue:\n    def __init__(self",
    "import os\nimport sys\n\n\ndef main(",
    "for name in sorted(names):\n",
    "    def test_close(self):\n",
    "async def fetch(url, timeout=None):\n",
)
# The bundled model's tokens for the single bytes of é, € and 😀: drawn among these alone, an output
# is characters whole, cut and broken.
_BYTE_TOKENS = (132, 107, 163, 229, 110, 177, 258, 251, 227)
_BIAS = 40.0


class Arrival(enum.Enum):
    """Moment at which a request is sent."""

    FIRST = enum.auto()
    """At the round's start."""
    LATER = enum.auto()
    """Some time after that."""
    AT_FAULT = enum.auto()
    """Within milliseconds of the fault, so that it is being tokenised or registered."""


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        name: of its kind.
        prompt: text, ids or a chat.
        options: what is asked; always with a seed or greedy.
        streamed: whether it is a stream.
        arrival: when it is sent.
        read_late: the client takes the first message, and the others only after the fault.
    """

    name: str
    prompt: Prompt
    options: Options
    streamed: bool = True
    arrival: Arrival = Arrival.FIRST
    read_late: bool = False


def mix() -> tuple[Case, ...]:
    """The 32 requests, in the order in which they are sent."""
    return (*_plain(), *_candidates(), *_stops(), *_bytes(), *_scored(), *_late(), *_arriving())


def _greedy(max_tokens: int, **more: object) -> Options:
    return _options(max_tokens, temperature=0.0, **more)


def _drawn(seed: int, max_tokens: int, **more: object) -> Options:
    return _options(max_tokens, seed=seed, **{"temperature": 0.9, "top_p": 0.95, **more})


def _options(max_tokens: int, **more: object) -> Options:
    settings = {"timeout": _CALL_S, "max_tokens": max_tokens, "ignore_eos": True, **more}
    return Options(**settings)  # type: ignore[arg-type]


def _plain() -> list[Case]:
    chat = (
        Message("system", "You write Python."),
        Message("user", "Write a function that reads a file."),
    )
    begun = (Message("user", "A queue?"), Message("assistant", "class Queue:\n    def"))
    return [
        Case("greedy", _SHORT[0], _greedy(320, token_ids=True)),
        Case("drawn", _SHORT[1], _drawn(1, 320)),
        Case("greedy, unary", _SHORT[2], _greedy(200, token_ids=True), streamed=False),
        Case("chat", chat, _drawn(2, 160, ignore_eos=False)),
        Case("chat, unary", chat, _drawn(3, 100, n=2), streamed=False),
        Case("chat continued", begun, _greedy(80, continue_final_message=True)),
        Case("ids", _ids(60, 4), _drawn(4, 240, token_ids=True)),
        Case("ids, unary", _ids(40, 5), _greedy(150, token_ids=True, echo=True), streamed=False),
        Case(
            "penalties",
            _SHORT[3],
            _drawn(5, 240, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3),
        ),
    ]


def _candidates() -> list[Case]:
    return [
        Case("4 candidates", _SHORT[4], _drawn(6, 80, n=4, token_ids=True)),
        Case("4 candidates, unary", _SHORT[5], _drawn(7, 60, n=4), streamed=False),
        Case("2 candidates, scores", _SHORT[0], _drawn(8, 120, n=2, logprobs=5, token_ids=True)),
        Case("3 candidates, natural end", _SHORT[2], _drawn(9, 120, n=3, ignore_eos=False)),
    ]


def _stops() -> list[Case]:
    half = ("return self.nowhere", "self._never", "if not isinstance(never", "\n    def never")
    return [
        Case("stop half matched", _SHORT[1], _drawn(10, 300, stop=half, token_ids=True)),
        Case("stop", _SHORT[4], _drawn(11, 200, n=3, stop=("\n\n", "return self"), logprobs=1)),
        Case("stop kept", _SHORT[5], _drawn(12, 200, stop="):\n", min_tokens=40)),
        Case(
            "stop kept, unary", _SHORT[0], _greedy(150, stop="\n    r", include_matched=True), False
        ),
        Case("stop token", _SHORT[3], _drawn(13, 150, stop_token_ids=range(300, 500))),
    ]


def _bytes() -> list[Case]:
    bias = dict.fromkeys(_BYTE_TOKENS, _BIAS)
    return [
        Case("bytes", "€", _drawn(14, 150, n=2, top_p=1.0, logit_bias=bias)),
        Case("bytes, stop", "é", _drawn(15, 120, top_p=1.0, logit_bias=bias, stop=("é€é", "😀€"))),
        Case("bytes, unary", "😀", _drawn(16, 100, top_p=1.0, logit_bias=bias), streamed=False),
    ]


def _scored() -> list[Case]:
    everything = {"logprobs": 2, "prompt_logprobs": True, "token_ids": True, "echo": True}
    return [
        Case("prompt scores", source(30, 1), _drawn(17, 100, **everything)),
        Case("prompt scores only", source(20, 2), _greedy(0, **everything), streamed=False),
        Case("long prompt, prompt scores", source(45, 3), _drawn(18, 40, **everything), False),
        Case("long prompt", source(80, 4), _greedy(80, token_ids=True)),
    ]


def _late() -> list[Case]:
    return [
        Case("read late", _SHORT[4], _drawn(19, 150), read_late=True),
        Case("read late, scores", _SHORT[2], _drawn(20, 200, logprobs=20), read_late=True),
    ]


def _arriving() -> list[Case]:
    later, at_fault = Arrival.LATER, Arrival.AT_FAULT
    return [
        Case("urgent", _SHORT[0], _drawn(21, 100, priority=-1), arrival=later),
        Case("long text", source(120, 5), _greedy(40), arrival=at_fault),
        Case("text, just sent", source(40, 6), _drawn(22, 60), arrival=at_fault),
        Case("text, just sent, unary", source(40, 7), _drawn(23, 60), False, at_fault),
        Case("patient, just sent", _SHORT[3], _drawn(24, 80, priority=3), arrival=at_fault),
    ]


def source(lines: int, seed: int) -> str:
    """Text that looks like Python: a prompt of any length."""
    draw = random.Random(seed)
    text = []
    for number in range(lines):
        noun, other, verb = draw.choice(_NOUNS), draw.choice(_NOUNS), draw.choice(_VERBS)
        text.append(f"def {verb}_{noun}_{number}(self, {other}):\n")
        text.append(f"    return self.{noun}.{verb}({other}, {draw.randrange(1000)})\n\n")
    return "".join(text)


def _ids(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(500, 4000) for _ in range(count)]
