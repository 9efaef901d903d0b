"""The pool answers each job once, whatever becomes of workers and callers."""

from __future__ import annotations

import asyncio
import os
import signal
from array import array
from pathlib import Path

import pytest
from support.tiny_tokenizers import write_checkpoint
from support.tokenizer_pools import TOKENIZER, encode, pool_on, workers_of_mine
from tokenizers import Tokenizer, models

from chassis.errors import RequestFailed, StartError
from chassis.memory.shared_file import HEADER_BYTES, SharedFile
from protos import generation_pb2, memory_pb2, tokenizer_pb2
from tokenizer_svc import pool as pool_module
from tokenizer_svc.pool import Cause, Pool
from tokenizer_svc.wire import Kind

LONG = "the quick brown fox " * 40_000


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


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


async def test_a_cancelled_job_is_called_back_and_writes_nothing(tmp_path: Path) -> None:
    arena = SharedFile.create("arena", 4 * len(LONG))
    slab = memory_pb2.Span(name=arena.name, offset=HEADER_BYTES, length=4 * len(LONG))
    async with pool_on(tmp_path, workers=1) as (pool, restarts):
        task = asyncio.create_task(encode(pool, LONG, slab))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await encode(pool, "the dog")).count
        assert not any(arena.view[HEADER_BYTES:])
        assert restarts == []
    arena.close()


async def test_a_job_that_cannot_be_left_is_ended_with_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RECALL_GRACE_S", 0)
    hours = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    chat = generation_pb2.Chat(messages=[generation_pb2.ChatMessage(role="user", content="a")])
    request = tokenizer_pb2.EncodeRequest(chat=chat).SerializeToString()
    async with pool_on(tmp_path, workers=1, template=hours) as (pool, restarts):
        task = asyncio.create_task(pool.ask(Kind.ENCODE, request, "test"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await encode(pool, "the dog")).count
        assert restarts == [Cause.RECALL]


@pytest.mark.parametrize("workers", [1, 2])
async def test_smaller_jobs_interrupt_larger_ones(tmp_path: Path, workers: int) -> None:
    medium = "the dog " * 2000
    async with pool_on(tmp_path, workers=workers) as (pool, _):
        long = [asyncio.create_task(encode(pool, LONG)) for _ in range(3)]
        await asyncio.sleep(0)
        texts = [medium, "the dog", medium, "the fox"]
        answers = await asyncio.gather(*(encode(pool, text) for text in texts))
        assert not any(task.done() for task in long)
        assert [array("i", answer.ids).tolist() for answer in answers] == [ids(t) for t in texts]
        for answer in await asyncio.gather(*long):
            assert array("i", answer.ids).tolist() == ids(LONG)


async def test_a_paused_job_can_be_called_back(tmp_path: Path) -> None:
    async with pool_on(tmp_path, workers=1) as (pool, restarts):
        long = asyncio.create_task(encode(pool, LONG))
        others = [asyncio.create_task(encode(pool, "the dog")) for _ in range(50)]
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        long.cancel()
        await asyncio.wait([long])
        assert long.cancelled()
        assert all(answer.count for answer in await asyncio.gather(*others))
        assert restarts == []


async def test_a_worker_that_has_grown_is_replaced_when_its_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(pool_module, "_GROWTH_BYTES", 0)
    tiny = Tokenizer(models.WordLevel({"the": 0}, unk_token="the"))
    async with pool_on(tmp_path, tiny, workers=1) as (pool, restarts):
        (worker,) = workers_of_mine()
        assert (await encode(pool, "the" * (4 << 20))).count == 1  # read, and so held, in one go
        assert (await encode(pool, "the")).count == 1
        assert restarts == [Cause.MEMORY]
        assert worker not in workers_of_mine()


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
        (worker,) = workers_of_mine()
        os.kill(worker, signal.SIGKILL)
        answer = await task
        assert answer.count == len(TOKENIZER.encode(LONG, add_special_tokens=False).ids)
        assert len(restarts) == 1


async def test_a_worker_that_dies_idle_is_replaced(tmp_path: Path) -> None:
    async with pool_on(tmp_path, workers=1) as (pool, restarts):
        await encode(pool, "the dog")
        (worker,) = workers_of_mine()
        os.kill(worker, signal.SIGKILL)
        assert (await encode(pool, "the dog")).count
        assert len(restarts) == 1
        assert worker not in workers_of_mine()


async def test_a_job_that_kills_two_workers_fails_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TOKENIZER)
    pool = Pool(tmp_path, 1)
    causes: asyncio.Queue[Cause] = asyncio.Queue()
    async with asyncio.timeout(60), pool.running(causes.put_nowait):
        task = asyncio.create_task(encode(pool, LONG))
        await asyncio.sleep(0)
        os.kill(workers_of_mine()[0], signal.SIGKILL)
        assert await causes.get() == Cause.CRASH
        os.kill(workers_of_mine()[0], signal.SIGKILL)
        with pytest.raises(RequestFailed, match="workers died of this prompt") as error:
            await task
        assert error.value.reason == "TOKENIZER_CRASHED"
        assert (await encode(pool, "the dog")).count


async def test_no_process_is_left_behind(tmp_path: Path) -> None:
    async with pool_on(tmp_path):
        assert len(workers_of_mine()) == 2
    assert workers_of_mine() == []


async def test_a_checkpoint_that_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "gone", 2)
    with pytest.raises(StartError, match=r"folder .* does not exist"):
        async with pool.running(on_replaced=lambda cause: None):
            raise AssertionError
    assert workers_of_mine() == []


async def test_an_error_inside_the_block_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="port in use"):
        async with pool_on(tmp_path):
            raise StartError("port in use")
    assert workers_of_mine() == []
