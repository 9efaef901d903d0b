"""One streamed completion, timed message by message.

The client shares the machine with what it measures, so replies are not decoded but for the last
one, which holds the tokens used.
"""

from __future__ import annotations

import time

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from protos import generation_pb2 as pb
from triptych.load.measures import RequestTimes

_METHOD = "/triptych.v1.GenerationService/GenerateStream"


class TimedStreams:
    """Streams over one channel."""

    def __init__(self, channel: aio.Channel, give_up_s: float) -> None:
        """Send over `channel`; a stream that takes longer than `give_up_s` has failed."""
        self._call: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_METHOD)
        self._give_up_s = give_up_s

    async def time(self, request: pb.GenerateRequest) -> tuple[RequestTimes, pb.Usage]:
        """Send one request and time it until its stream ends; one that failed has used nothing."""
        wire = request.SerializeToString()
        started = last = time.perf_counter()
        first: float | None = None
        messages = 0
        reply, failure = b"", None
        call = self._call(wire, timeout=self._give_up_s)
        try:
            async for message in call:
                last = time.perf_counter()
                first = first or last
                messages += 1
                reply = message
        except grpc.RpcError:
            reply, failure = b"", (await call.code()).name
        finally:
            call.cancel()
        try:
            usage = pb.GenerateStreamResponse.FromString(reply).usage
        except DecodeError:
            usage, failure = pb.Usage(), grpc.StatusCode.INTERNAL.name
        ttft_s, total_s = (first or last) - started, last - started
        return RequestTimes(usage.completion_tokens, messages, ttft_s, total_s, failure), usage
