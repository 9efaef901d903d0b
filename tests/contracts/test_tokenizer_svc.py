"""`triptych.internal.v1.TokenizerService` over a real socket, with real worker processes."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from support.tiny_tokenizers import byte_level, write_checkpoint
from tokenizers import models

from chassis.errors import StartError
from chassis.links.channels import open_channel
from chassis.memory.arena import Arena
from chassis.memory.shared_file import SharedFile
from chassis.serving.server import serving
from protos import (
    generation_pb2,
    memory_pb2,
    service_pb2,
    service_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from tokenizer_svc.pool import Pool
from tokenizer_svc.service import make_mount
from tokenizer_svc.servicer import TokenizerServicer
from tokenizer_svc.settings import TokenizerSettings
from tokenizer_svc.wire import Kind, Message

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = byte_level()
Stub = tokenizer_pb2_grpc.TokenizerServiceStub


@asynccontextmanager
async def channel_to(folder: Path) -> AsyncIterator[aio.Channel]:
    settings = TokenizerSettings(listen="127.0.0.1:0", model=str(folder), grace_s=1)
    async with (
        asyncio.timeout(60),
        serving("tokenizer", make_mount(settings), settings) as server,
        open_channel(server.address) as channel,
    ):
        yield channel


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", TOKENIZER)


def chat(role: str) -> generation_pb2.Chat:
    message = generation_pb2.ChatMessage(role=role, content="the dog")
    return generation_pb2.Chat(messages=[message])


async def violation(call: aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str]:
    """The status of a failed call, and the field it names."""
    with pytest.raises(aio.AioRpcError) as error:
        await call
    status = rpc_status.from_call(error.value)
    request = error_details_pb2.BadRequest()
    assert status is not None
    assert any(detail.Unpack(request) for detail in status.details)
    return error.value.code(), request.field_violations[0].field


async def test_ids_land_in_the_arena_that_a_worker_has_proven(checkpoint: Path) -> None:
    arena = Arena(SharedFile.create("arena", 4096))
    want = TOKENIZER.encode("the dog").ids
    async with channel_to(checkpoint) as channel:
        stub = Stub(channel)
        attached = await stub.Attach(tokenizer_pb2.AttachRequest(arena=arena.file.describe()))
        assert arena.file.proven_by(attached.proof)
        slabs = [arena.take(64) for _ in range(8)]
        answers = await asyncio.gather(
            *(stub.Encode(tokenizer_pb2.EncodeRequest(text="the dog", slab=s)) for s in slabs)
        )
    assert all(answer.in_slab and answer.count == len(want) for answer in answers)
    for slab in slabs:
        written = arena.file.view[slab.offset : slab.offset + 4 * len(want)]
        assert array("i", bytes(written)).tolist() == want
    arena.file.close()


async def test_an_arena_that_cannot_be_seen_gets_no_proof(checkpoint: Path) -> None:
    unseen = memory_pb2.SharedFile(name="triptych-arena-0123456789abcdef", bytes=4096)
    async with channel_to(checkpoint) as channel:
        attached = await Stub(channel).Attach(tokenizer_pb2.AttachRequest(arena=unseen))
    assert attached.proof.nonce == b""


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (tokenizer_pb2.EncodeRequest(), "prompt"),
        (tokenizer_pb2.EncodeRequest(chat=chat("narrator")), "chat.messages"),
        (
            tokenizer_pb2.EncodeRequest(
                chat=generation_pb2.Chat(messages=chat("user").messages, tools_json="{}")
            ),
            "chat.tools_json",
        ),
    ],
)
async def test_a_bad_prompt_is_refused_by_field_and_the_next_is_encoded(
    checkpoint: Path, request_: tokenizer_pb2.EncodeRequest, field: str
) -> None:
    async with channel_to(checkpoint) as channel:
        refused = await violation(Stub(channel).Encode(request_))
        answer = await Stub(channel).Encode(tokenizer_pb2.EncodeRequest(chat=chat("user")))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert answer.count > 0


async def test_a_worker_gets_the_bytes_of_the_request_and_the_caller_those_of_the_answer(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    real_ask = Pool.ask

    async def ask(pool: Pool, kind: Kind, payload: bytes, request_id: str) -> Message:
        answer = await real_ask(pool, kind, payload, request_id)
        seen.extend((payload, request_id.encode(), answer[1]))
        return answer

    monkeypatch.setattr(Pool, "ask", ask)
    text, request_id = b"\x12\x07the dog", b"\x0a\x03r-1"
    async with channel_to(checkpoint) as channel:
        encode = channel.unary_unary("/triptych.internal.v1.TokenizerService/Encode")
        # A message that is serialised again has its fields in the order of their numbers.
        answer = await encode(text + request_id)
    assert seen == [text + request_id, b"r-1", answer]


async def test_every_method_of_the_contract_is_registered() -> None:
    (service,) = tokenizer_pb2.DESCRIPTOR.services_by_name.values()
    added: list[grpc.GenericRpcHandler] = []
    TokenizerServicer(None, None).add_to(SimpleNamespace(add_generic_rpc_handlers=added.extend))
    for method in service.methods:
        details = SimpleNamespace(method=f"/{service.full_name}/{method.name}")
        assert added[0].service(details) is not None


async def test_metrics_and_health_tell_of_it(checkpoint: Path) -> None:
    async with channel_to(checkpoint) as channel:
        answer = await Stub(channel).Encode(tokenizer_pb2.EncodeRequest(text="the dog"))
        check = health_pb2.HealthCheckRequest(service="triptych.internal.v1.TokenizerService")
        health = await health_pb2_grpc.HealthStub(channel).Check(check)
        scraped = await scrape(channel)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert 'triptych_tokenizer_encodes_total{prompt="text"} 1.0' in scraped
    assert f"triptych_tokenizer_tokens_total {float(answer.count)}" in scraped
    assert "triptych_tokenizer_queue 0.0" in scraped


async def scrape(channel: aio.Channel) -> str:
    introspection = service_pb2_grpc.IntrospectionServiceStub(channel)
    answer = await introspection.Scrape(service_pb2.ScrapeRequest())
    return str(answer.text.decode())


async def test_a_prompt_that_cannot_fit_is_refused_by_its_bytes_or_its_ids(
    checkpoint: Path,
) -> None:
    async with channel_to(checkpoint) as channel:
        stub = Stub(channel)
        vocabulary = await stub.GetVocabulary(tokenizer_pb2.GetVocabularyRequest())
        long = "a" * (1000 * vocabulary.most_bytes_per_id)
        for text in ("the dog " * 20, long + "a"):
            request = tokenizer_pb2.EncodeRequest(text=text, most_ids=9 if "dog" in text else 1000)
            refused = await violation(stub.Encode(request))
            assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "text")
        assert "triptych_tokenizer_refusals_total 2.0" in await scrape(channel)


async def test_a_cancelled_prompt_is_called_back(checkpoint: Path) -> None:
    long = tokenizer_pb2.EncodeRequest(text="the dog " * 400_000)
    recalled = re.compile(r"^triptych_tokenizer_recalls_total [1-9]", re.MULTILINE)
    async with channel_to(checkpoint) as channel:
        stub = Stub(channel)
        said = ""
        for eighths in range(1, 40):
            call = stub.Encode(long)
            await asyncio.sleep(eighths / 8)  # until it is under way
            call.cancel()
            await stub.Encode(tokenizer_pb2.EncodeRequest(text="the dog"))
            said = await scrape(channel)
            if recalled.search(said):
                break
        assert recalled.search(said)
        assert "triptych_tokenizer_worker_restarts_total 0.0" in said


async def test_requests_that_a_tokenizer_raises_on_end_no_worker(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = None
    tokenizer.model = models.BPE({"a": 0}, [], unk_token="<unk>")
    async with channel_to(write_checkpoint(tmp_path / "model", tokenizer)) as channel:
        stub = Stub(channel)
        for _ in range(5):
            refused = await violation(stub.Encode(tokenizer_pb2.EncodeRequest(text="X")))
            assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "text")
        assert (await stub.Encode(tokenizer_pb2.EncodeRequest(text="a"))).count
        assert "triptych_tokenizer_worker_restarts_total 0.0" in await scrape(channel)


async def test_no_workers_is_not_a_service(checkpoint: Path) -> None:
    settings = TokenizerSettings(listen="127.0.0.1:0", model=str(checkpoint), workers=0)
    with pytest.raises(StartError, match="at least 1"):
        async with serving("tokenizer", make_mount(settings), settings):
            raise AssertionError


def start(tmp_path: Path, model: Path) -> subprocess.Popen[str]:
    settings = {"LISTEN": f"unix:{tmp_path}/tokenizer.sock", "MODEL": str(model), "WORKERS": "1"}
    named = {f"TRIPTYCH_TOKENIZER_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "tokenizer_svc"],
        cwd=ROOT,
        env={**os.environ, **named},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_missing_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, tmp_path / "gone")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("triptych tokenizer: checkpoint folder ")
    assert "Traceback" not in said


def test_workers_end_with_their_service(tmp_path: Path, checkpoint: Path) -> None:
    process = start(tmp_path, checkpoint)
    assert process.stderr is not None
    while "listening" not in process.stderr.readline():
        assert process.poll() is None
    (worker,) = map(
        int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    )
    watched = os.pidfd_open(worker)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    ended, _, _ = select.select([watched], [], [], 60)
    os.close(watched)
    assert ended
