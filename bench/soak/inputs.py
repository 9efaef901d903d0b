"""Hostile inputs: messages that a server has to refuse or survive, by name.

Each is made when it is sent, so that a run holds one of them in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protos import generation_pb2 as pb

MIB = 1 << 20


@dataclass(frozen=True)
class Input:
    """One message.

    Attributes:
        method: of `triptych.v1.GenerationService`.
        make: makes the message's bytes.
        give_up_s: the call is cancelled after so many seconds; None: it is not.
        gzip: whether it is sent compressed.
    """

    method: str
    make: Callable[[], bytes]
    give_up_s: float | None = None
    gzip: bool = False


def _generate(**fields: object) -> pb.GenerateRequest:
    request = pb.GenerateRequest(**fields)  # type: ignore[arg-type]
    request.stop.max_tokens = 1
    return request


def _ids(mib: int) -> bytes:
    return _generate(token_ids=pb.TokenIds(ids=[5] * (mib * MIB))).SerializeToString()


def _long_stream() -> bytes:
    request = _generate(text="def f(x):")
    request.stop.max_tokens, request.stop.ignore_eos = 1000, True
    return request.SerializeToString()


def _stop_ids() -> bytes:
    request = _generate(text="a")
    request.stop.token_ids.extend([5] * (8 * MIB))
    return request.SerializeToString()


def _stop_strings() -> bytes:
    request = _generate(text="a")
    request.stop.strings.extend(["a"] * (8 * MIB // 3))
    return request.SerializeToString()


def _logit_bias() -> bytes:
    request = _generate(text="a")
    for token in range(8 * MIB // 12):
        request.sampling.logit_bias[token] = 1.0
    return request.SerializeToString()


def _bad_words() -> bytes:
    request = _generate(text="a")
    request.sampling.bad_words.extend(["word"] * (8 * MIB // 6))
    return request.SerializeToString()


def _messages() -> bytes:
    # Two bytes each: a tag and no content.
    chat = pb.Chat.FromString(b"\x0a\x00" * (4 * MIB))
    return _generate(chat=chat).SerializeToString()


def _chat(**fields: object) -> Callable[[], bytes]:
    def make() -> bytes:
        chat = pb.Chat(**fields)  # type: ignore[arg-type]
        chat.messages.add(role="user", content="hi")
        return _generate(chat=chat).SerializeToString()

    return make


def _arguments(value: float | list[dict[str, float]]) -> Callable[[], bytes]:
    def make() -> bytes:
        chat = pb.Chat()
        chat.messages.add(role="user", content="hi")
        chat.template_arguments.update({"x": value})
        return _generate(chat=chat).SerializeToString()

    return make


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _text(text: str) -> Callable[[], bytes]:
    return lambda: _generate(text=text).SerializeToString()


def _detokenize() -> bytes:
    return pb.DetokenizeRequest(token_ids=[5] * (8 * MIB)).SerializeToString()


def _zeros() -> bytes:
    size = 200 * MIB
    return b"\x12" + _varint(size) + bytes(size)


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*coded, number])


def _extremes() -> bytes:
    request = _generate(text="def f(x):")
    request.stop.max_tokens = 4
    sampling = request.sampling
    sampling.temperature, sampling.top_p, sampling.min_p = 1e-38, 1e-30, 1.0
    sampling.repetition_penalty = sampling.presence_penalty = sampling.frequency_penalty = 3e38
    for token, bias in ((5, 3e38), (6, -3e38), (7, float("-inf"))):
        sampling.logit_bias[token] = bias
    return request.SerializeToString()


INPUTS: Mapping[str, Input] = {
    "8 MiB of ids": Input("Generate", lambda: _ids(8)),
    "8 MiB of stop ids": Input("Generate", _stop_ids),
    "8 MiB of stop strings": Input("Generate", _stop_strings),
    "8 MiB of logit bias": Input("Generate", _logit_bias),
    "8 MiB of bad words": Input("Generate", _bad_words),
    "8 MiB of messages": Input("GenerateStream", _messages),
    "8 MiB of text": Input("Generate", _text("a " * (4 * MIB))),
    "8 MiB of text, cancelled": Input("GenerateStream", _text("ab " * (8 * MIB // 3)), 0.1),
    "60 KB without a space": Input("Generate", _text("a" * 60_000), 5.0),
    "8 MiB to tokenise": Input(
        "Tokenize", lambda: pb.TokenizeRequest(text="a b" * (8 * MIB // 3)).SerializeToString()
    ),
    "8 MiB to detokenise": Input("Detokenize", _detokenize),
    "200 MiB in gzip": Input("Generate", _zeros, gzip=True),
    "not a number for a template": Input("Generate", _arguments(float("nan"))),
    "nested infinity for a template": Input("Generate", _arguments([{"y": float("inf")}])),
    "half a character in tools": Input("Generate", _chat(tools_json=r'[{"name": "cut \ud83d"}]')),
    "deep tools": Input("Generate", _chat(tools_json=_nested(100_000))),
    "deep arguments": Input(
        "Generate", _chat(template_arguments_json=json.dumps({"x": 1})[:-1] + _nested(50_000) + "}")
    ),
    "no UTF-8": Input("Generate", lambda: b"\x1a\x04\xff\xfe\xfd\xfc"),
    "cut off": Input("GenerateStream", lambda: _text("a" * 100)()[:-5]),
    "extremes of sampling": Input("GenerateStream", _extremes),
    "a line break in a role": Input(
        "Generate",
        lambda: _generate(
            chat=pb.Chat(messages=[pb.ChatMessage(role="a\n12:00:00 error \x1b[31m", content="b")])
        ).SerializeToString(),
    ),
    "a stream that is dropped": Input("GenerateStream", _long_stream, 0.1),
}
