"""A `GenerationService` of the tests' own, on a real socket, in a thread with its own loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import pytest

from chassis.config import ServiceSettings
from chassis.errors import InvalidRequest, NotFound, Overloaded, RequestFailed, Unavailable
from chassis.serving.server import Host, serving
from protos import generation_pb2 as pb
from protos import generation_pb2_grpc, service_pb2

WORDS = ("Once ", "upon ", "a ", "time")


class FakeGeneration(generation_pb2_grpc.GenerationServiceServicer):
    """Answers every prompt with `WORDS`; special prompts fail, or never end.

    Attributes:
        requests: generations and tokenisations asked for.
        heard: what came with every call of any kind, failed ones too.
        away: how many of the next calls are answered UNAVAILABLE.
        stopping: how many of the next calls are answered CANCELLED, as by a server that stops.
        stuck: how many of the next calls are never answered.
        remaining_s: what each call had left until its deadline.
        waiting: set once a call has come that is never answered.
        cancelled: set once an endless prompt has ended.
        model: what is served.
        prompt_tokens: what each answer says its prompt has cost.
        words: what streams.
    """

    def __init__(self) -> None:
        self.requests: list = []
        self.heard: list = []
        self.away = 0
        self.stopping = 0
        self.stuck = 0
        self.remaining_s: list[float | None] = []
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self.model = pb.Model(name="fake", architecture="Fake", context_length=512, vocab_size=256)
        self.prompt_tokens = 7
        self.words = WORDS

    async def _enter(self, request, context) -> None:
        """Note a call, send its initial metadata, and fail while the service is away."""
        self.heard.append(request)
        self.remaining_s.append(context.time_remaining())
        await context.send_initial_metadata((("x-request-id", "made"),))
        if self.away:
            self.away -= 1
            raise Unavailable("the tokenizer is away", retry_after_s=0.001)
        if self.stopping:
            self.stopping -= 1
            await context.abort(grpc.StatusCode.CANCELLED, "Cancelling all calls")
        if self.stuck:
            self.stuck -= 1
            self.waiting.set()
            await asyncio.Event().wait()

    def _refuse(self, request: pb.GenerateRequest) -> None:
        self.requests.append(request)
        if request.text == "invalid":
            raise InvalidRequest("sampling.top_p", "must be in (0, 1]")
        if request.text == "overloaded":
            raise Overloaded("the queue is full", retry_after_s=2.5)
        if request.text == "crashing":
            raise RequestFailed("IMPLICATED_IN_CRASHES", "ran in three crashes")
        if request.model == "unknown":
            raise NotFound("no model 'unknown'")

    async def Generate(self, request, context):  # noqa: N802
        await self._enter(request, context)
        self._refuse(request)
        try:
            if request.text == "endless":
                await asyncio.Event().wait()
        finally:
            if request.text == "endless":
                self.cancelled.set()
        candidates = [_candidate(index, "".join(WORDS)) for index in range(request.sampling.n or 1)]
        return pb.GenerateResponse(
            request_id=request.request_id or "made",
            candidates=candidates,
            usage=self._usage(len(candidates)),
            prompt=pb.Prompt(text=request.text) if request.output.echo else None,
        )

    async def GenerateStream(self, request, context):  # noqa: N802
        await self._enter(request, context)
        self._refuse(request)
        for number, word in enumerate(self.words):
            last = number == len(self.words) - 1
            part = pb.Candidate(text=word, token_ids=[number])
            if last:
                part.finish_reason = pb.FINISH_REASON_STOP
                part.matched_token_id = 2
            usage = self._usage(1) if last else None
            reply = pb.GenerateStreamResponse(request_id="made", deltas=[part], usage=usage)
            if request.text == "endless":
                await self._write_and_wait(reply, context)
            await context.write(reply)
            if request.text == "breaking":
                raise Unavailable("the model is away")
            if request.text == "stopping":
                await context.abort(grpc.StatusCode.CANCELLED, "Cancelling all calls")

    async def _write_and_wait(self, reply: pb.GenerateStreamResponse, context) -> None:
        """The client may have it, and leave, before the write has returned here."""
        try:
            await context.write(reply)
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def _usage(self, candidates: int) -> pb.Usage:
        return pb.Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=candidates * len(WORDS),
            cached_prompt_tokens=1,
        )

    async def Tokenize(self, request, context):  # noqa: N802
        await self._enter(request, context)
        self.requests.append(request)
        text = request.text or "".join(one.content for one in request.chat.messages)
        raw = text.encode()
        return pb.TokenizeResponse(token_ids=list(raw), tokens=[bytes([one]) for one in raw])

    async def Detokenize(self, request, context):  # noqa: N802
        await self._enter(request, context)
        return pb.DetokenizeResponse(text=bytes(request.token_ids).decode())

    async def ListModels(self, request, context):  # noqa: N802
        await self._enter(request, context)
        return pb.ListModelsResponse(models=[self.model])

    async def GetLoad(self, request, context):  # noqa: N802
        await self._enter(request, context)
        replica = pb.Replica(address="unix:/nowhere/model.sock", ready=True, kv_slots_total=64)
        return pb.GetLoadResponse(
            queued=3, running=2, kv_slots_used=16, kv_slots_total=64, replicas=[replica]
        )


def _candidate(index: int, text: str) -> pb.Candidate:
    logprob = pb.TokenLogprob(
        token_id=1, token=b"a", logprob=-0.5, top=[pb.TokenLogprob(token_id=1, logprob=-0.5)]
    )
    return pb.Candidate(
        index=index,
        text=text,
        token_ids=range(len(WORDS)),
        finish_reason=pb.FINISH_REASON_LENGTH,
        logprobs=[logprob],
    )


class FakeServer:
    """Serves until `stop`; `address` is where."""

    def __init__(self, listen: str = "127.0.0.1:0") -> None:
        self.generation = FakeGeneration()
        self.address = listen
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        settings = ServiceSettings(listen=self.address, grace_s=0.1)
        async with serving("router", self._mount, settings) as running:
            self.address = running.address
            self._started.set()
            await self._stop.wait()

    @asynccontextmanager
    async def _mount(self, host: Host) -> AsyncIterator[None]:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self.generation, host.server)
        host.list_links = lambda: [
            service_pb2.Link(
                service="tokenizer",
                address="unix:/nowhere/tokenizer.sock",
                ready=False,
                transport=service_pb2.TRANSPORT_SHARED_MEMORY,
            ),
            service_pb2.Link(service="model", address=self.address, ready=True),
        ]
        await host.set_ready(True)
        yield


@pytest.fixture
def serve_at() -> Iterator[Callable[[str], FakeServer]]:
    """Starts servers that answer, at addresses that are given."""
    running: list[FakeServer] = []

    def start(address: str) -> FakeServer:
        running.append(FakeServer(address))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def server(serve_at: Callable[[str], FakeServer]) -> FakeServer:
    """A server that answers."""
    return serve_at("127.0.0.1:0")


@pytest.fixture
def nobody() -> str:
    """An address where nothing answers: port 9 (discard) of this machine."""
    return "127.0.0.1:9"


class _Junk(grpc.GenericRpcHandler):
    """Answers every call with bytes that are no message."""

    def service(self, details):
        if details.method.endswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(lambda *_: iter([b"\xff\x00"]))
        return grpc.unary_unary_rpc_method_handler(lambda *_: b"\xff\x00")


@pytest.fixture
def junk() -> Iterator[str]:
    """Address of a gRPC server whose answers cannot be decoded."""
    serving = grpc.server(ThreadPoolExecutor(2), handlers=(_Junk(),))
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    yield f"127.0.0.1:{port}"
    serving.stop(0).wait()
