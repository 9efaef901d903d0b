"""The load generator: a server of the test's own behind each protocol, a sender that only waits."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio

from bench import processes
from bench.peers.load import generator, senders
from bench.peers.load.generator import Task
from bench.peers.load.senders import Answer
from bench.peers.running import PeerFailed, free_port, load_process, machine_cpu, served
from bench.peers.servers.registry import Launch
from protos import generation_pb2 as pb
from triptych.load.measures import RequestTimes

TASK = Task("127.0.0.1:1", 3, 2, ("a", "b", "c", "d", "e"), ("warm",))


class WaitingSender:
    """Answers after a turn of the loop; remembers what it was sent and how many at a time."""

    def __init__(self):
        self.sent = []
        self.in_flight = self.most_in_flight = 0

    async def send(self, prompt, output_tokens):
        self.sent.append((prompt, output_tokens))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return Answer(RequestTimes(output_tokens, 1, 0.01, 0.02), 7)


def test_a_task_survives_its_line():
    assert Task.from_line(TASK.as_line()) == TASK


async def test_a_cell_warms_up_and_then_counts_with_so_many_in_flight(monkeypatch):
    sender = WaitingSender()

    @asynccontextmanager
    async def connected(_speech, _address):
        yield sender

    monkeypatch.setattr(generator, "connected", connected)

    figures = await generator.run("triptych", TASK)

    assert sender.sent[0] == ("warm", generator.WARM_UP_TOKENS)
    assert sender.sent[1:] == [(prompt, 2) for prompt in "abcde"]
    assert sender.most_in_flight == 3
    assert figures["requests"] == 5
    assert figures["output_tokens"] == 10
    assert figures["prompt_tokens"] == 35
    assert figures["messages_per_token"] == pytest.approx(0.5)


@asynccontextmanager
async def http_server(reply):
    """Answers every request with the bytes `reply`, remembering the requests."""
    heard = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.splitlines()
            if line.lower().startswith(b"content-length")
        )
        heard.append((head.split()[1].decode(), json.loads(await reader.readexactly(length))))
        writer.write(reply)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
LLAMA = (
    b'data: {"content":"a"}\n\ndata: {"content":"b"}\n\n'
    b'data: {"stop":true,"tokens_evaluated":110,"tokens_predicted":2}\n\n'
)
VLLM = (
    b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"text":"b"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":110,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(
    ("speech", "path", "body"),
    [("llama.cpp", "/completion", LLAMA), ("vllm", "/v1/completions", VLLM)],
)
async def test_an_http_stream_is_counted_in_messages_and_tokens(speech, path, body):
    pytest.importorskip("aiohttp")
    async with (
        http_server(OK + body) as (address, heard),
        senders.connected(speech, address) as sender,
    ):
        answer = await sender.send("some text", 2)

    assert answer.times.failure is None
    assert (answer.times.messages, answer.times.output_tokens, answer.prompt_tokens) == (2, 2, 110)
    assert 0 < answer.times.ttft_s <= answer.times.total_s
    assert heard[0][0] == path
    assert heard[0][1]["prompt"] == "some text"


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "HTTP 503"),
        (OK + b'data: {"content":"a"}\n\n', "KeyError"),  # cut short: nothing tells its tokens
    ],
)
async def test_an_http_failure_is_an_answer_that_names_it(reply, failure):
    pytest.importorskip("aiohttp")
    async with (
        http_server(reply) as (address, _),
        senders.connected("llama.cpp", address) as sender,
    ):
        answer = await sender.send("some text", 2)

    assert answer.times.failure == failure
    assert answer.times.output_tokens == 0


class Generation(grpc.GenericRpcHandler):
    """Two messages, the second with the usage; a prompt `fail` is refused."""

    def service(self, _details):
        return grpc.unary_stream_rpc_method_handler(self._answer)

    async def _answer(self, wire, context):
        if pb.GenerateRequest.FromString(wire).text == "fail":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        yield pb.GenerateStreamResponse().SerializeToString()
        usage = pb.Usage(prompt_tokens=110, completion_tokens=3)
        yield pb.GenerateStreamResponse(usage=usage).SerializeToString()


@pytest.fixture
async def triptych_sender():
    server = aio.server()
    server.add_generic_rpc_handlers((Generation(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with senders.connected("triptych", f"127.0.0.1:{port}") as sender:
        yield sender
    await server.stop(None)


async def test_a_grpc_stream_is_counted_in_messages_and_tokens(triptych_sender):
    answer = await triptych_sender.send("some text", 3)

    assert answer.times.failure is None
    assert (answer.times.messages, answer.times.output_tokens, answer.prompt_tokens) == (2, 3, 110)
    assert 0 < answer.times.ttft_s <= answer.times.total_s


async def test_a_grpc_failure_is_an_answer_that_names_it(triptych_sender):
    answer = await triptych_sender.send("fail", 3)

    assert answer.times.failure == "RESOURCE_EXHAUSTED"


def test_the_generator_is_a_process_that_answers_a_line_with_a_line():
    with load_process("triptych") as process:
        figures = process.run(Task(f"127.0.0.1:{free_port()}", 1, 1, ("nobody listens",)))

    assert figures["failures"] == {"UNAVAILABLE": 1}
    assert figures["messages_per_token"] is None


def script(text):
    return (sys.executable, "-c", text)


def test_a_server_runs_until_the_block_ends_and_its_children_with_it(tmp_path):
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    child = f"import time; file = open({str(held)!r}, 'w'); print(flush=True); time.sleep(600)"
    ours = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('ready on', flush=True)\n"
        "time.sleep(600)\n"
    )
    with (
        (tmp_path / "log").open("wb") as log,
        served(Launch(script(ours), ready_line="ready on"), 0, log) as running,
    ):
        alone = processes.resident_mib(running.process.pid)
        with_its_child = running.resident_mib()

    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end: nobody is left who could write
    os.close(reader)
    assert running.process.returncode is not None
    assert with_its_child > alone


def failing(launch, log):
    with served(launch, free_port(), log):
        pass


def test_a_server_that_ends_before_it_is_ready_is_a_failure(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        with pytest.raises(PeerFailed, match="before it was ready"):
            failing(Launch(script("pass"), ready_line="ready on "), log)
        with pytest.raises(PeerFailed, match="code 3"):
            failing(Launch(script("raise SystemExit(3)")), log)


def test_a_server_is_ready_once_its_health_is_answered(tmp_path):
    port = free_port()
    text = f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port})"
    (tmp_path / "health").write_text("well")
    launch = Launch(script(f"import os; os.chdir({str(tmp_path)!r}); {text}"))

    with (tmp_path / "log").open("wb") as log, served(launch, port, log) as running:
        assert running.process.poll() is None


def test_the_machine_tells_the_time_its_cores_were_busy():
    before = machine_cpu()
    while (machine_cpu() - before).busy_s < 0.02:
        sum(range(10_000))

    assert (machine_cpu() - before).stolen_s >= 0
