"""Whatever runs beside a request changes none of its tokens, and leaves nothing behind."""

import asyncio
import random
import re
from pathlib import Path

import pytest
from grpc import aio
from support import checkpoints
from support.deployments import local

from protos import generation_pb2 as g
from protos import generation_pb2_grpc

REQUESTS = 48
# Room for a few requests at once: most of them have to wait, and those that write more than the
# router reserves for them outgrow the pool.
KV_TOKENS = 600
LONG_EVERY = 6


def make_requests(seed):
    rng = random.Random(seed)
    for i in range(REQUESTS):
        message = g.GenerateRequest(
            token_ids=g.TokenIds(ids=[rng.randrange(3, 250) for _ in range(rng.randint(1, 120))])
        )
        message.stop.max_tokens = (
            rng.randint(200, 300) if i % LONG_EVERY == 1 else rng.randint(1, 40)
        )
        message.stop.ignore_eos = True
        message.output.token_ids = True
        if i % 2:
            message.sampling.seed = rng.getrandbits(64)
            message.sampling.top_p = rng.choice([1.0, 0.9])
            message.sampling.top_k = rng.choice([0, 20])
            message.sampling.repetition_penalty = rng.choice([1.0, 1.2])
            message.sampling.n = rng.choice([1, 1, 2])
        else:
            message.sampling.temperature = 0
        yield message


def outcome(response):
    return [(list(c.token_ids), c.text, c.finish_reason) for c in response.candidates]


async def run_all(api, messages, seed):
    """All at once, at random moments; every eighth is cancelled on its way."""
    rng = random.Random(seed)

    async def run(i, message, delay_s, patience_s):
        await asyncio.sleep(delay_s)
        call = api.Generate(message, timeout=120)
        if i % 8 == 0:
            await asyncio.sleep(patience_s)
            call.cancel()
        try:
            return outcome(await call)
        except asyncio.CancelledError:
            return None

    return await asyncio.gather(
        *(
            run(i, message, rng.uniform(0, 1.0), rng.uniform(0, 0.5))
            for i, message in enumerate(messages)
        )
    )


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_concurrent_requests_equal_their_lone_runs(tmp_path, family):
    model = checkpoints.write_checkpoint(tmp_path, family, max_position_embeddings=2048)
    messages = list(make_requests(seed=7))
    options = ("--dtype", "float32", "--kv-tokens", str(KV_TOKENS))
    with local.deployed(model, *options) as deployment:
        lone = [outcome(deployment.api.Generate(m, timeout=60)) for m in messages]

        async def together():
            async with aio.insecure_channel(deployment.address) as channel:
                api = generation_pb2_grpc.GenerationServiceStub(channel)
                return await run_all(api, messages, seed=11)

        crowded = asyncio.run(together())
        preempted = deployment.metric("model", "triptych_model_preemptions_total")
        idle = deployment.api.Generate(messages[0], timeout=30)
        deployment.settled_load()

    assert preempted > 0, "the pool was large enough for all: the test shows nothing"
    finished = [i for i, result in enumerate(crowded) if result is not None]
    assert len(finished) >= REQUESTS - REQUESTS // 8
    for i in finished:
        assert crowded[i] == lone[i], f"request {i} came out differently in company"
    assert outcome(idle) == lone[0]


def scored(prompt_tokens):
    request = g.GenerateRequest(token_ids=g.TokenIds(ids=[i % 60 for i in range(prompt_tokens)]))
    request.stop.max_tokens = 0
    request.output.logprobs = 5
    request.output.prompt_logprobs = True
    return request


def test_a_ring_too_small_for_the_load_loses_nothing(tmp_path):
    model = checkpoints.write_checkpoint(tmp_path, "llama", max_position_embeddings=2048)
    messages = list(make_requests(seed=3))
    for message in messages:
        message.output.logprobs = 5
    # The prompt's last chunk, and with it the ending, fits the ring; those before it do not.
    messages += [scored(prompt_tokens) for prompt_tokens in (513, 1026)]
    options = ("--dtype", "float32")
    with local.deployed(model, *options, env={"TRIPTYCH_MODEL_RING_KIB": "4"}) as deployment:
        lone = [outcome(deployment.api.Generate(m, timeout=60)) for m in messages]

        async def together():
            async with aio.insecure_channel(deployment.address) as channel:
                api = generation_pb2_grpc.GenerationServiceStub(channel)
                calls = [api.Generate(message, timeout=120) for message in messages]
                return [outcome(await call) for call in calls]

        crowded = asyncio.run(together())
        left_out = deployment.metric("model", "triptych_model_rows_left_out_total")
        replays = deployment.metric("model", "triptych_model_replays_total")

    assert left_out > 0, "the ring was large enough: the test shows nothing"
    assert replays > 0
    assert crowded == lone


def shared_files(pid):
    """The files in shared memory that a process maps; other deployments have their own."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(found) for found in re.findall(r"/dev/shm/triptych-\S+", maps)}


def test_nothing_stays_in_shared_memory_after_the_end(tmp_path):
    model = checkpoints.write_checkpoint(tmp_path, "llama", max_position_embeddings=2048)
    with local.deployed(model) as deployment:
        pids = deployment.pids()
        mapped = {file for pid in pids for file in shared_files(pid)}

    assert len(mapped) >= 2, "arena and ring are files in /dev/shm"
    assert not [file for file in mapped if file.exists()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
