"""`triptych.v1.GenerationService` bounds, refusals and what they leave behind."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest
from grpc import aio
from support.deployments.routers import (
    deployed,
    details_of,
    failure,
    generate_request,
    held_back,
)
from support.fakes.router import CONTEXT, LENGTH, FakeReplica, FakeTokenizer

from protos import generation_pb2, model_pb2, service_pb2

IDS = generation_pb2.TokenIds
LONG_ID = (("x-request-id", "x" * 257),)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ({"text": "x" * 90 + "yz"}, list(b"xyz")),
        ({"token_ids": IDS(ids=[299] * 70 + [120, 121, 122])}, list(b"xyz")),
        (
            {"chat": generation_pb2.Chat(messages=[{"role": "u", "content": "x" * 99 + "yz"}])},
            list(b"xyz"),
        ),
    ],
    ids=["text", "ids", "chat"],
)
async def test_the_end_of_a_longer_prompt_is_kept_shown_and_counted(tmp_path, prompt, ids):
    asked = generate_request(
        **prompt,
        truncate_prompt_tokens=3,
        output=generation_pb2.OutputOptions(echo=True, token_ids=True),
    )
    async with deployed(tmp_path) as deployment:
        answer = await deployment.stub.Generate(asked)

    assert deployment.replica.prompts == [ids]
    assert answer.usage.prompt_tokens == 3
    assert answer.prompt == generation_pb2.Prompt(text="xyz", token_ids=ids)


async def test_a_shorter_prompt_is_not_truncated(tmp_path):
    asked = generate_request(
        "hello", truncate_prompt_tokens=9, output=generation_pb2.OutputOptions(echo=True)
    )
    async with deployed(tmp_path) as deployment:
        answer = await deployment.stub.Generate(asked)
        too_many = await failure(
            deployment.stub.Generate(generate_request(truncate_prompt_tokens=CONTEXT + 1))
        )

    assert answer.prompt.text == "hello"
    assert deployment.replica.prompts == [list(b"hello")]
    assert "truncate_prompt_tokens: 65 is more than the 64" in too_many.details()


@pytest.mark.parametrize("prompt", [{"text": "hi"}, {"token_ids": IDS(ids=[104, 105])}])
async def test_bad_words_reach_the_model_as_ids_each_time_it_is_asked(tmp_path, prompt):
    sampling = generation_pb2.SamplingParams(bad_words=["a"], logit_bias={3: -math.inf})
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(generate_request(**prompt, sampling=sampling))
        await replica.submits.until(1)
        replica.step(replica.submits[0])
        await call.read()
        replica.automatic = True
        replica.crash()
        while await call.read() is not aio.EOF:
            pass

    first, second = replica.submits.items
    for submit in (first, second):
        assert [list(each.ids) for each in submit.bad_words] == [[97], [32, 97]]
        assert not submit.sampling.bad_words
        assert submit.sampling.logit_bias == {3: -math.inf}
    assert replica.prompts == [[104, 105]] * 2


async def test_the_checkpoints_defaults_hold_where_the_operator_says_so(tmp_path):
    replica = FakeReplica()
    replica.defaults = generation_pb2.SamplingParams(temperature=0.5, top_k=7)
    asked = generate_request(sampling=generation_pb2.SamplingParams(top_k=0))
    for generation_defaults in (True, False):
        async with deployed(
            tmp_path, replicas=[replica], generation_defaults=generation_defaults
        ) as deployment:
            await deployment.stub.Generate(asked)
            listed = await deployment.stub.ListModels(generation_pb2.ListModelsRequest())
            assert listed.models[0].generation_defaults == replica.defaults

    with_defaults, without = (submit.sampling for submit in replica.submits.items)
    assert (with_defaults.temperature, with_defaults.top_k) == (0.5, 0)
    assert not without.HasField("temperature")


async def test_calls_that_run_nothing_leave_a_metric_and_a_line(tmp_path, caplog):
    caplog.set_level("INFO")
    async with deployed(tmp_path) as deployment:
        stub = deployment.stub
        await stub.Tokenize(generation_pb2.TokenizeRequest(text="hi"))
        await failure(stub.Tokenize(generation_pb2.TokenizeRequest()))
        await failure(stub.Detokenize(generation_pb2.DetokenizeRequest(token_ids=[300])))
        await failure(stub.Generate(generate_request(request_id="a\nb")))
        await failure(stub.Tokenize(generation_pb2.TokenizeRequest(text="x"), metadata=LONG_ID))
        await failure(stub.Generate(generate_request(model="x" * 300)))
        text = (await deployment.introspection.Scrape(service_pb2.ScrapeRequest())).text.decode()

    def calls(method: str, outcome: str) -> str:
        path = f"/triptych.v1.GenerationService/{method}"
        return f'triptych_router_calls_total{{method="{path}",outcome="{outcome}"}}'

    assert f"{calls('Tokenize', 'ok')} 1.0" in text
    assert f"{calls('Tokenize', 'invalid_request')} 2.0" in text
    assert f"{calls('Detokenize', 'invalid_request')} 1.0" in text
    assert f"{calls('Generate', 'invalid_request')} 2.0" in text
    assert 'triptych_router_requests_total{outcome="invalid_request"} 1.0' in text
    ended = [record for record in caplog.records if record.getMessage() == "request ended"]
    assert [getattr(record, "method", "") for record in ended] == [
        "Tokenize",
        "Tokenize",
        "Detokenize",
        "",
        "Tokenize",
    ]
    assert "not printable" in ended[3].cause
    assert [r.cause for r in caplog.records if r.getMessage() == "call refused"] == [
        "model: 300 bytes, more than the 256 that are taken"
    ]


async def test_texts_that_wait_are_bounded_in_bytes(tmp_path):
    tokenizer, long = FakeTokenizer(), "x" * 600_000
    replica = FakeReplica(kv_slots=10_000_000, context=10_000_000)
    async with deployed(
        tmp_path, tokenizer=tokenizer, replicas=[replica], max_queue_mib=1
    ) as deployment:
        tokenizer.hold.clear()
        waiting = deployment.stub.Generate(generate_request(long))
        await tokenizer.encodes.until(1)
        refused = await failure(deployment.stub.Generate(generate_request(long)))
        short = deployment.stub.Generate(generate_request())
        tokenizer.hold.set()
        await asyncio.gather(waiting, short)
        await deployment.stub.Generate(generate_request(long))

    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {type(detail).__name__ for detail in details_of(refused)} == {"ErrorInfo", "RetryInfo"}


async def test_a_prompt_that_runs_is_not_among_those_that_wait(tmp_path):
    replica = held_back()
    replica.context = replica.kv_slots = 10_000_000
    async with deployed(tmp_path, replicas=[replica], max_queue_mib=1) as deployment:
        calls = []
        for count in (1, 2):
            asked = generate_request("x" * 600_000, max_tokens=1)
            calls.append(asyncio.ensure_future(deployment.stub.Generate(asked)))
            await replica.submits.until(count)
        for submit in replica.submits.items:
            replica.step(submit, finish=LENGTH)
        await asyncio.gather(*calls)


async def test_a_model_that_lacks_a_prompts_ids_is_told_with_the_clients_field(tmp_path):
    replica = FakeReplica()
    replica.refusal = model_pb2.Refusal(
        code=3, field="prompt", message="id 299 at 0 is not below 280"
    )
    async with deployed(tmp_path, replicas=[replica]) as deployment:
        by_ids = await failure(deployment.stub.Generate(generate_request(token_ids=IDS(ids=[299]))))
        by_text = await failure(deployment.stub.Generate(generate_request("x")))

    assert by_ids.details() == "token_ids.ids: id 299 at 0 is not below 280"
    assert by_text.details() == "text: id 299 at 0 is not below 280"
