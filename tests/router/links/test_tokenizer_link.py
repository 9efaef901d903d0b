from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from support.deployments.routers import cancelled, deployed, failure, generate_request
from support.fakes.router import PATIENCE_S, FakeReplica, FakeTokenizer

from chassis.errors import InvalidRequest, Overloaded, RequestFailed, TooLarge, error_info
from chassis.memory.shared_file import FOLDER
from protos import generation_pb2, service_pb2
from router.links.tokenizer_link import LONG_AT_ONCE, LONG_PROMPT_BYTES

IDS = generation_pb2.TokenIds


async def test_a_request_cancelled_while_it_is_encoded_keeps_its_slab_until_the_answer(tmp_path):
    tokenizer = FakeTokenizer()
    async with deployed(tmp_path, tokenizer=tokenizer) as deployment:
        await deployment.stub.Generate(generate_request("warm"))
        tokenizer.hold.clear()
        call = deployment.stub.Generate(generate_request("one"))
        await tokenizer.encodes.until(2)
        cancelled(call)
        other = deployment.stub.Generate(generate_request("two"))
        await tokenizer.encodes.until(3)
        tokenizer.hold.set()
        await other
        await tokenizer.answered.until(3)
        await deployment.stub.Generate(generate_request("three"))
        offsets = [encode.slab.offset for encode in tokenizer.encodes.items]

    assert offsets[2] != offsets[1]
    assert offsets[3] == offsets[1]


async def test_only_some_long_prompts_are_encoded_at_once_and_short_ones_pass_the_others(tmp_path):
    tokenizer, long = FakeTokenizer(), "x" * LONG_PROMPT_BYTES
    replica = FakeReplica(kv_slots=1_000_000, context=1_000_000)
    async with deployed(tmp_path, tokenizer=tokenizer, replicas=[replica]) as deployment:
        await deployment.stub.Generate(generate_request("warm"))
        tokenizer.hold.clear()
        calls = [deployment.stub.Generate(generate_request(long)) for _ in range(LONG_AT_ONCE + 4)]
        await tokenizer.encodes.until(1 + LONG_AT_ONCE)
        short = deployment.stub.Generate(generate_request("short"))
        await tokenizer.encodes.until(2 + LONG_AT_ONCE)
        for call in calls:
            cancelled(call)
        tokenizer.hold.set()
        await short
        await deployment.stub.Generate(generate_request(long))
        asked = [encode.text for encode in tokenizer.encodes.items]

    assert asked == ["warm", *[long] * LONG_AT_ONCE, "short", long]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_long_prompt_is_called_back_when_its_request_ends(tmp_path, how):
    tokenizer = FakeTokenizer()
    replica = FakeReplica(kv_slots=1_000_000, context=1_000_000)
    async with deployed(tmp_path, tokenizer=tokenizer, replicas=[replica]) as deployment:
        await deployment.stub.Generate(generate_request("warm"))
        tokenizer.hold.clear()
        long = generate_request("x" * LONG_PROMPT_BYTES)
        call = deployment.stub.Generate(long, timeout=PATIENCE_S if how == "cancel" else 0.5)
        await tokenizer.encodes.until(2)
        if how == "cancel":
            cancelled(call)
        await tokenizer.recalled.until(1)
        tokenizer.hold.set()
        await deployment.stub.Generate(long)

    assert not tokenizer.encodes[1].HasField("slab"), "a worker may be writing to it"
    assert [submit.HasField("slab") for submit in replica.submits.items] == [True, True]


async def test_what_cannot_fit_never_reaches_a_tokenizer_that_bounds_its_tokens(tmp_path):
    tokenizer = FakeTokenizer(bytes_per_id=4)
    async with deployed(tmp_path, tokenizer=tokenizer) as deployment:
        await deployment.stub.Generate(generate_request("warm"))
        error = await failure(deployment.stub.Generate(generate_request("x" * 257)))
        may_fit = await failure(deployment.stub.Generate(generate_request("x" * 256)))
        kept = generate_request("x" * 257, truncate_prompt_tokens=3)
        await deployment.stub.Generate(kept)

    assert "257 bytes, which are 65 tokens or more: more than the 64 that fit" in error.details()
    assert "256 tokens, more than the 64 that fit" in may_fit.details()
    asked = [(len(encode.text), encode.most_ids) for encode in tokenizer.encodes.items]
    assert asked == [(4, 64), (256, 64), (257, 0)]
    assert tokenizer.encodes[2].truncate_ids == 3


async def test_longer_texts_than_the_operator_allows_never_reach_the_tokenizer(tmp_path):
    tokenizer = FakeTokenizer()
    async with deployed(tmp_path, tokenizer=tokenizer, max_text_kib=1) as deployment:
        asked = generate_request("x" * 1025, truncate_prompt_tokens=3)
        errors = [
            await failure(deployment.stub.Generate(asked)),
            await failure(
                deployment.stub.Tokenize(generation_pb2.TokenizeRequest(text="x" * 1025))
            ),
        ]

    assert [error.code() for error in errors] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
    assert all("1025 bytes, more than the 1024" in error.details() for error in errors)
    assert not len(tokenizer.encodes)


@pytest.mark.parametrize(
    ("raised", "code", "reason", "words"),
    [
        (
            RequestFailed("TOKENIZER_CRASHED", "two workers ended"),
            grpc.StatusCode.INTERNAL,
            "TOKENIZER_CRASHED",
            "two workers ended",
        ),
        (KeyError("x"), grpc.StatusCode.INTERNAL, "PEER_FAILED", "the tokenizer failed"),
        (
            InvalidRequest("prompt", "has no letters"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "text: has no letters",
        ),
        (
            InvalidRequest("chat.tools_json", "no JSON"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "chat.tools_json: no JSON",
        ),
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "full"),
        (
            TooLarge("x"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "text: too long for a message",
        ),
    ],
)
async def test_what_a_tokenizer_fails_of_reaches_the_client(tmp_path, raised, code, reason, words):
    tokenizer = FakeTokenizer()
    tokenizer.failure = raised
    async with deployed(tmp_path, tokenizer=tokenizer) as deployment:
        error = await failure(deployment.stub.Generate(generate_request()))
    info = error_info(error)

    assert (error.code(), info.reason) == (code, reason)
    assert words in error.details()


@pytest.mark.parametrize("tokenizer_shares", [True, False])
@pytest.mark.parametrize("model_shares", [True, False])
async def test_prompts_arrive_whole_whoever_shares_memory(tmp_path, tokenizer_shares, model_shares):
    async with deployed(
        tmp_path,
        tokenizer=FakeTokenizer(shared=tokenizer_shares),
        replicas=[FakeReplica(shared=model_shares)],
    ) as deployment:
        await deployment.stub.Generate(generate_request("hello"))
        await deployment.stub.Generate(generate_request(token_ids=IDS(ids=[7, 8])))
        described = await deployment.introspection.Describe(service_pb2.DescribeRequest())

    replica, links = deployment.replica, {link.service: link for link in described.links}
    assert replica.prompts == [list(b"hello"), [7, 8]]
    assert list(replica.registers[0].prompt_tail) == list(b"hello")
    assert deployment.tokenizer.encodes[0].HasField("slab") == tokenizer_shares
    assert {submit.HasField("slab") for submit in replica.submits.items} == {model_shares}
    ways = {True: service_pb2.TRANSPORT_SHARED_MEMORY, False: service_pb2.TRANSPORT_INLINE}
    assert links["tokenizer"].transport == ways[tokenizer_shares]
    assert links["model"].transport == ways[model_shares]
    assert links["detokenizer"].transport == service_pb2.TRANSPORT_SHARED_MEMORY
    assert all(link.ready for link in links.values())


def mapped_arenas():
    """Arena files that this process has mapped; other routers may run on the machine."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if f"{FOLDER}/triptych-arena-" in line}


async def test_told_not_to_share_it_makes_no_file(tmp_path):
    before = mapped_arenas()
    async with deployed(tmp_path, shared_memory=False) as deployment:
        await deployment.stub.Generate(generate_request("hello"))
        made = mapped_arenas() - before

    assert not made
    assert deployment.replica.prompts == [list(b"hello")]


async def test_a_prompt_too_large_for_the_arena_goes_inline(tmp_path):
    replica = FakeReplica(kv_slots=1_000_000, context=1_000_000)
    async with deployed(tmp_path, replicas=[replica], arena_mib=1) as deployment:
        await deployment.stub.Generate(generate_request("x" * 300_000))
        await deployment.stub.Generate(generate_request("hello"))

    assert [len(prompt) for prompt in replica.prompts] == [300_000, 5]
    assert [submit.HasField("slab") for submit in replica.submits.items] == [False, True]


async def test_a_tokenizer_that_dies_retires_the_arena_and_is_asked_again(tmp_path):
    tokenizer = FakeTokenizer()
    async with (
        deployed(tmp_path, tokenizer=tokenizer, fakes=False) as deployment,
        deployment.serve_model(),
        deployment.serve_detokenizer(),
    ):
        tokenizer.hold.clear()
        async with deployment.serve_tokenizer():
            call = deployment.stub.Generate(generate_request("hello"))
            await tokenizer.encodes.until(1)
        tokenizer.hold.set()
        tokenizer.files.close()
        async with deployment.serve_tokenizer():
            await call
            await deployment.stub.Generate(generate_request("again"))
            first, *_, last = [encode.slab.name for encode in tokenizer.encodes.items]
            retired_is_gone = not (FOLDER / first).exists()

    assert retired_is_gone
    assert first != last
    assert deployment.replica.prompts == [list(b"hello"), list(b"again")]
    assert deployment.replica.submits[1].slab.name == last


async def test_its_file_is_gone_when_it_has_stopped(tmp_path):
    before = set(FOLDER.glob("triptych-arena-*"))
    async with deployed(tmp_path) as deployment:
        await deployment.stub.Generate(generate_request())
        made = {deployment.replica.submits[0].slab.name}

    assert made
    assert not {path.name for path in set(FOLDER.glob("triptych-arena-*")) - before} & made
