"""How the streams of a real process end: by the ErrorInfo a peer tells a stop from a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from support import checkpoints
from support.fakes.detokenizer import TOKENIZER, FakeRouter
from support.fakes.model_peers import Detokenizer, Router
from support.tiny_tokenizers import write_checkpoint

from chassis.errors import error_info
from chassis.links.channels import open_channel
from model_svc.fault_injection import CRASH_ON_TOKEN
from protos import model_pb2_grpc

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
GRACE_S = 10 * WAIT_S  # whoever waits for it fails
DEADLY = 7
FAULTS: dict[str, str] = {}
FAILING_MODEL = """
from model_svc.engine.host_runner import HostRunner

def fail(runner, step):
    raise ArithmeticError("the device is gone")

HostRunner.launch = fail
import model_svc.__main__
"""


@asynccontextmanager
async def process(
    service: str, socket: Path, *command: str, **given: object
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A service of its own at `socket`, killed at the end if it still lives."""
    listening = {"listen": f"unix:{socket}", "grace_s": GRACE_S}
    environment = {key: value for key, value in os.environ.items() if "TRIPTYCH_" not in key}
    environment |= FAULTS | {
        f"TRIPTYCH_{service.upper()}_{key.upper()}": str(value)
        for key, value in {**listening, **given}.items()
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(WAIT_S):
            yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


@asynccontextmanager
async def joined_model(
    folder: Path, command: Sequence[str] = ("-m", "model_svc"), **settings: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Router, Detokenizer]]:
    """A model process, and the two that hold streams of it."""
    checkpoint = checkpoints.write_checkpoint(folder / "model", "llama")
    socket = folder / "model.sock"
    given = {"checkpoint": checkpoint, "kv_tokens": 512, "threads": 1, **settings}
    async with (
        process("model", socket, *command, **given) as running,
        open_channel(f"unix:{socket}") as channel,
    ):
        stub = model_pb2_grpc.ModelServiceStub(channel)
        router, detokenizer = Router(stub), Detokenizer(stub)
        await asyncio.gather(router.join(), detokenizer.join())
        yield running, router, detokenizer


async def ending(call: aio.StreamStreamCall) -> tuple[grpc.StatusCode, str | None]:
    """The status of a stream and the reason told with it, once it has ended."""
    try:
        while await call.read() is not aio.EOF:
            pass
    except aio.AioRpcError as error:
        info = error_info(error)
        return error.code(), None if info is None else info.reason
    return await call.code(), None


TOLD_TO_STOP = (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
BROKEN_OFF = (grpc.StatusCode.UNAVAILABLE, None)


async def test_a_model_told_to_stop_says_so_at_once_and_ends(tmp_path: Path) -> None:
    async with joined_model(tmp_path) as (running, router, detokenizer):
        await router.submit(max_tokens=400)
        await router.loads_until(lambda load: load.running)
        running.send_signal(signal.SIGTERM)
        assert await ending(router.call) == TOLD_TO_STOP
        assert await ending(detokenizer.call) == TOLD_TO_STOP
        assert await running.wait() == 0


async def test_a_model_whose_engine_fails_breaks_off_without_a_word(tmp_path: Path) -> None:
    async with joined_model(tmp_path, ["-c", FAILING_MODEL]) as (running, router, detokenizer):
        await router.submit()
        endings = await asyncio.gather(ending(router.call), ending(detokenizer.call))
        assert await running.wait() == 1
    assert endings == [BROKEN_OFF, BROKEN_OFF]


async def test_a_model_that_is_killed_breaks_off_without_a_word(tmp_path: Path) -> None:
    async with joined_model(tmp_path) as (running, router, detokenizer):
        running.kill()
        endings = await asyncio.gather(ending(router.call), ending(detokenizer.call))
    assert endings == [BROKEN_OFF, BROKEN_OFF]


async def test_a_fault_that_was_switched_on_kills_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAULTS, CRASH_ON_TOKEN, str(DEADLY))
    async with joined_model(tmp_path) as (running, router, detokenizer):
        await detokenizer.until_finished(await router.submit(1, ids=[DEADLY - 1]))
        await router.submit(2, ids=[1, DEADLY])
        assert await ending(router.call) == BROKEN_OFF
        assert await running.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("signal_number", "told"), [(signal.SIGTERM, TOLD_TO_STOP), (signal.SIGKILL, BROKEN_OFF)]
)
async def test_a_detokenizer_says_whether_it_was_told_to_stop(
    tmp_path: Path, signal_number: int, told: tuple[grpc.StatusCode, str | None]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", TOKENIZER)
    socket = tmp_path / "detokenizer.sock"
    given = {"model": checkpoint, "model_address": f"unix:{tmp_path}/model.sock"}
    async with (
        process("detokenizer", socket, "-m", "detokenizer_svc", **given) as running,
        open_channel(f"unix:{socket}") as channel,
    ):
        router = FakeRouter(channel, wait_for_ready=True)
        await router.listen()
        running.send_signal(signal_number)
        assert await ending(router.call) == told
        await running.wait()
