"""A long text that cannot be cut is encoded beside others, whatever becomes of its process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from google.rpc import error_details_pb2
from support.tokenizer_pools import TOKENIZER, children_of, encode, pool_on, workers_of_mine
from tokenizers import Tokenizer, models

from protos import tokenizer_pb2
from tokenizer_svc.pool import Cause, Pool
from tokenizer_svc.text.fork import compute_in_fork
from tokenizer_svc.wire import Kind

WORD = "ab" * (256 << 10)  # one word to the tokenizer, so it has no cuts

BLOCKED_FORK = """
import os, signal
from tokenizer_svc.text.fork import compute_in_fork

def block():
    print(os.getpid(), flush=True)
    signal.pause()

compute_in_fork(block, lambda until: None)
"""


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


@dataclass
class Held:
    """A long text that the only worker of a pool encodes in a fork, which is stopped."""

    pool: Pool
    restarts: list[Cause]
    encoding: asyncio.Task[tokenizer_pb2.EncodeResponse]
    worker: int
    fork: int


@asynccontextmanager
async def held(folder: Path) -> AsyncIterator[Held]:
    async with pool_on(folder, workers=1) as (pool, restarts):
        encoding = asyncio.create_task(encode(pool, WORD))
        await asyncio.sleep(0)
        for _ in range(2):  # the first may come before the worker forks
            await encode(pool, "the dog")
        (worker,) = workers_of_mine()
        (fork,) = children_of(worker)
        os.kill(fork, signal.SIGSTOP)
        yield Held(pool, restarts, encoding, worker, fork)


async def test_other_texts_are_encoded_meanwhile(tmp_path: Path) -> None:
    async with held(tmp_path) as text:
        for other in ("the dog", "the dog " * 20_000):
            answer = await encode(text.pool, other)
            assert array("i", answer.ids).tolist() == ids(other)
        assert not text.encoding.done()
        os.kill(text.fork, signal.SIGCONT)
        assert array("i", (await text.encoding).ids).tolist() == ids(WORD)
        assert children_of(text.worker) == []
        assert text.restarts == []


async def test_a_text_called_back_ends_its_fork_and_not_the_worker(tmp_path: Path) -> None:
    async with held(tmp_path) as text:
        text.encoding.cancel()
        await asyncio.wait([text.encoding])
        assert text.encoding.cancelled()
        assert children_of(text.worker) == []
        assert (await encode(text.pool, "the dog")).count
        assert text.restarts == []


async def test_a_fork_that_dies_ends_its_worker_and_the_text_is_given_to_another(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as text:
        os.kill(text.fork, signal.SIGKILL)
        assert array("i", (await text.encoding).ids).tolist() == ids(WORD)
        assert text.restarts == [Cause.CRASH]


async def test_a_fork_ends_with_its_worker() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BLOCKED_FORK), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    descriptor = os.pidfd_open(int(await parent.stdout.readline()))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(60):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


def test_a_process_that_cannot_fork_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", mock.Mock(side_effect=OSError("no more processes")))
    with pytest.raises(SystemExit, match="no more processes"):
        compute_in_fork(lambda: array("i"), mock.Mock())


async def test_a_failure_of_the_tokenizer_is_told_as_that_of_a_short_text(tmp_path: Path) -> None:
    without_unknown = Tokenizer(models.WordLevel({"the": 0}, unk_token="missing"))

    async def failure(pool: Pool, text: str) -> str:
        request = tokenizer_pb2.EncodeRequest(text=text).SerializeToString()
        kind, payload = await pool.ask(Kind.ENCODE, request, "test")
        assert kind == Kind.REFUSAL
        return error_details_pb2.BadRequest.FieldViolation.FromString(payload).description

    async with pool_on(tmp_path, without_unknown, workers=1) as (pool, restarts):
        short = await failure(pool, "dog")
        assert short.startswith("the tokenizer failed: ")
        assert await failure(pool, "dog" * 100_000) == short
        assert restarts == []
