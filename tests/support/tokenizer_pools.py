"""Pools of tokenizer workers on tiny checkpoints, and their processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.tiny_tokenizers import TEMPLATE, byte_level, write_checkpoint
from tokenizers import Tokenizer

from protos import memory_pb2, tokenizer_pb2
from tokenizer_svc.pool import Cause, Pool
from tokenizer_svc.wire import Kind

TOKENIZER = byte_level()


@asynccontextmanager
async def pool_on(
    folder: Path, tokenizer: Tokenizer = TOKENIZER, workers: int = 2, template: str = TEMPLATE
) -> AsyncIterator[tuple[Pool, list[Cause]]]:
    """A running pool, and a list that grows with each worker replaced."""
    write_checkpoint(folder, tokenizer, template)
    pool = Pool(folder, workers)
    restarts: list[Cause] = []
    async with asyncio.timeout(60), pool.running(restarts.append):
        yield pool, restarts


async def encode(
    pool: Pool, text: str, slab: memory_pb2.Span | None = None
) -> tokenizer_pb2.EncodeResponse:
    request = tokenizer_pb2.EncodeRequest(text=text, slab=slab, add_special_tokens=False)
    kind, payload = await pool.ask(Kind.ENCODE, request.SerializeToString(), "test")
    assert kind == Kind.ANSWER
    return tokenizer_pb2.EncodeResponse.FromString(payload)


def workers_of_mine() -> list[int]:
    """Process ids of the workers of all pools in this process."""
    return [pid for pid in children_of(os.getpid()) if b"tokenizer_svc.worker" in command_of(pid)]


def children_of(pid: int) -> list[int]:
    listings = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listing in listings for child in listing.read_text().split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
