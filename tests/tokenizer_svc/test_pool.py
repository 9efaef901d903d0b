"""The pool answers each job once, whatever becomes of workers and callers."""

from __future__ import annotations

import asyncio
import os
import signal
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tiny_tokenizers import byte_level, word_piece, write_checkpoint
from tokenizers import Tokenizer, models

from chassis.errors import RequestFailed, StartError
from chassis.shared_file import HEADER_BYTES, SharedFile
from protos import memory_pb2, tokenizer_pb2
from tokenizer_svc.pool import Pool
from tokenizer_svc.wire import Kind

TOKENIZER = byte_level()
LONG = "the quick brown fox " * 50_000


@asynccontextmanager
async def pool_on(
    folder: Path, tokenizer: Tokenizer = TOKENIZER, workers: int = 2
) -> AsyncIterator[tuple[Pool, list[None]]]:
    """A running pool, and a list that grows with each worker replaced."""
    write_checkpoint(folder, tokenizer)
    pool = Pool(folder, workers)
    restarts: list[None] = []
    async with asyncio.timeout(60), pool.running(on_restart=lambda: restarts.append(None)):
        yield pool, restarts


async def encode(
    pool: Pool, text: str, slab: memory_pb2.Span | None = None
) -> tokenizer_pb2.EncodeResponse:
    request = tokenizer_pb2.EncodeRequest(text=text, slab=slab, add_special_tokens=False)
    kind, payload = await pool.ask(Kind.ENCODE, request.SerializeToString(), "test")
    assert kind == Kind.ANSWER
    return tokenizer_pb2.EncodeResponse.FromString(payload)


def children() -> list[int]:
    me = os.getpid()
    listings = Path(f"/proc/{me}/task").glob("*/children")
    pids = [int(pid) for listing in listings for pid in listing.read_text().split()]
    return [pid for pid in pids if b"tokenizer_svc.worker" in command_of(pid)]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_answers_many_at_once(tmp_path: Path) -> None:
    texts = [f"the dog {i}" for i in range(50)]
    async with pool_on(tmp_path) as (pool, restarts):
        answers = await asyncio.gather(*(encode(pool, text) for text in texts))
        assert pool.waiting == 0
    assert [array("i", answer.ids).tolist() for answer in answers] == [
        TOKENIZER.encode(text, add_special_tokens=False).ids for text in texts
    ]
    assert restarts == []


async def test_short_prompts_pass_long_ones(tmp_path: Path) -> None:
    async with pool_on(tmp_path) as (pool, _):
        long = [asyncio.create_task(encode(pool, LONG)) for _ in range(2)]
        await asyncio.gather(*(encode(pool, "the dog") for _ in range(20)))
        assert not any(task.done() for task in long)
        await asyncio.gather(*long)


async def test_a_cancelled_job_ends_only_when_its_slab_is_written(tmp_path: Path) -> None:
    arena = SharedFile.create("arena", 4 * len(LONG))
    slab = memory_pb2.Span(name=arena.name, offset=HEADER_BYTES, length=4 * len(LONG))
    async with pool_on(tmp_path, workers=1) as (pool, _):
        task = asyncio.create_task(encode(pool, LONG, slab))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        written = bytes(arena.view[HEADER_BYTES:])
    arena.close()
    want = array("i", TOKENIZER.encode(LONG, add_special_tokens=False).ids).tobytes()
    assert written[: len(want)] == want


async def test_a_cancelled_job_that_still_waits_ends_at_once(tmp_path: Path) -> None:
    async with pool_on(tmp_path, workers=1) as (pool, _):
        first = asyncio.create_task(encode(pool, LONG))
        second = asyncio.create_task(encode(pool, "the dog"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert (first.done(), pool.waiting) == (False, 0)
        await first


async def test_a_worker_that_dies_at_work_is_replaced_and_its_job_done(tmp_path: Path) -> None:
    async with pool_on(tmp_path, workers=1) as (pool, restarts):
        task = asyncio.create_task(encode(pool, LONG))
        await asyncio.sleep(0)
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        answer = await task
        assert answer.count == len(TOKENIZER.encode(LONG, add_special_tokens=False).ids)
        assert len(restarts) == 1


async def test_a_worker_that_dies_idle_is_replaced(tmp_path: Path) -> None:
    async with pool_on(tmp_path, workers=1) as (pool, restarts):
        await encode(pool, "the dog")
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        assert (await encode(pool, "the dog")).count
        assert len(restarts) == 1
        assert worker not in children()


async def test_a_job_that_kills_two_workers_fails_alone(tmp_path: Path) -> None:
    # A WordPiece vocabulary without its unknown token cannot encode what it does not know.
    fragile = word_piece()
    fragile.model = models.WordPiece(vocab={"the": 0}, unk_token="[UNK]")
    async with pool_on(tmp_path, fragile) as (pool, restarts):
        with pytest.raises(RequestFailed, match="workers died of this prompt") as error:
            await encode(pool, "zebra")
        assert error.value.reason == "TOKENIZER_CRASHED"
        assert (await encode(pool, "the")).count == 1
        assert len(restarts) >= 1


async def test_no_process_is_left_behind(tmp_path: Path) -> None:
    async with pool_on(tmp_path):
        assert len(children()) == 2
    assert children() == []


async def test_a_checkpoint_that_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "gone", 2)
    with pytest.raises(StartError, match=r"folder .* does not exist"):
        async with pool.running(on_restart=lambda: None):
            raise AssertionError
    assert children() == []


async def test_an_error_inside_the_block_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="port in use"):
        async with pool_on(tmp_path):
            raise StartError("port in use")
    assert children() == []
