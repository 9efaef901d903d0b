"""`triptych.v1.GenerationService` over a real socket, before fake services on real sockets."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest
from grpc import aio
from router_deployments import (
    collect,
    deployed,
    details_of,
    failure,
    generate_request,
    held_back,
    texts,
)
from router_fakes import CONTEXT, LENGTH, FakeReplica, FakeTokenizer

from protos import generation_pb2, model_pb2, service_pb2

IDS = generation_pb2.TokenIds
LONG_ID = (("x-request-id", "x" * 257),)


async def test_a_stream_carries_each_step_on_its_own_and_usage_last(tmp_path):
    async with deployed(tmp_path) as deployment:
        messages = await collect(deployment.stub.GenerateStream(generate_request(max_tokens=3)))

    assert texts(messages) == [["a "], ["b "], ["c "]]
    assert [m.deltas[0].finish_reason for m in messages] == [0, 0, LENGTH]
    assert [m.HasField("usage") for m in messages] == [False, False, True]
    assert messages[-1].usage == generation_pb2.Usage(prompt_tokens=2, completion_tokens=3)
    assert not any(m.HasField("prompt") for m in messages)
    assert not any(m.deltas[0].token_ids for m in messages)


async def test_a_unary_call_answers_whole_candidates_in_order(tmp_path):
    asked = generate_request(
        max_tokens=2,
        sampling=generation_pb2.SamplingParams(n=3),
        output=generation_pb2.OutputOptions(token_ids=True),
    )
    async with deployed(tmp_path) as deployment:
        answer = await deployment.stub.Generate(asked)

    assert [c.index for c in answer.candidates] == [0, 1, 2]
    assert all(c.text == "a b " and list(c.token_ids) == [97, 98] for c in answer.candidates)
    assert answer.usage.completion_tokens == 6


async def test_candidates_of_one_step_share_a_message(tmp_path):
    asked = generate_request(max_tokens=2, sampling=generation_pb2.SamplingParams(n=2))
    async with deployed(tmp_path) as deployment:
        messages = await collect(deployment.stub.GenerateStream(asked))

    assert texts(messages) == [["a ", "a "], ["b ", "b "]]


async def test_no_output_tokens_is_one_message_with_usage(tmp_path):
    async with deployed(tmp_path) as deployment:
        (message,) = await collect(deployment.stub.GenerateStream(generate_request(max_tokens=0)))

    assert message.deltas[0].finish_reason == LENGTH
    assert message.usage == generation_pb2.Usage(prompt_tokens=2)


async def test_unset_parameters_are_resolved_before_the_model_sees_them(tmp_path):
    async with deployed(tmp_path) as deployment:
        await deployment.stub.Generate(generate_request("hello", max_tokens=None))

    submit = deployment.replica.submits[0]
    assert submit.stop.max_tokens == CONTEXT - 5
    assert submit.sampling.HasField("seed")
    assert submit.sampling.n == 1


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [
        ({"text": "hé"}, "hé", list("hé".encode())),
        ({"token_ids": IDS(ids=[104, 256, 105])}, "hi", [104, 256, 105]),
        (
            {"chat": generation_pb2.Chat(messages=[{"role": "u", "content": "yo"}])},
            "<u>yo",
            list(b"<u>yo"),
        ),
    ],
    ids=["text", "ids", "chat"],
)
async def test_the_prompt_is_echoed_on_the_first_message(tmp_path, prompt, text, ids):
    asked = generate_request(
        **prompt, max_tokens=2, output=generation_pb2.OutputOptions(echo=True, token_ids=True)
    )
    async with deployed(tmp_path) as deployment:
        first, second = await collect(deployment.stub.GenerateStream(asked))

    assert first.prompt == generation_pb2.Prompt(text=text, token_ids=ids)
    assert not second.HasField("prompt")
    assert deployment.replica.prompts == [ids]


async def test_the_prompts_logprobs_come_whole_on_the_first_message(tmp_path):
    scores = [generation_pb2.TokenLogprob(token_id=i, logprob=-i) for i in range(2)]
    asked = generate_request(output=generation_pb2.OutputOptions(prompt_logprobs=True))
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(asked)
        await replica.submits.until(1)
        submit = replica.submits[0]
        replica.step(submit, token_ids=[], text="", prompt_logprobs=scores[:1])
        replica._produced.clear()
        replica.step(submit, prompt_logprobs=scores[1:], prompt_position=1)
        replica.step(submit, finish=LENGTH)
        first, second = await collect(call)

    assert list(first.prompt.logprobs) == scores
    assert texts([first, second]) == [["a "], ["b "]]
    assert not second.HasField("prompt")


async def test_special_tokens_are_added_as_the_caller_says(tmp_path):
    async with deployed(tmp_path) as deployment:
        await deployment.stub.Generate(generate_request(add_special_tokens=True))
        await deployment.stub.Generate(generate_request())

    assert deployment.replica.prompts == [[256, 104, 105], [104, 105]]
    assert not deployment.tokenizer.encodes[1].HasField("add_special_tokens")


async def test_tokenize_and_detokenize_answer_ids_and_text(tmp_path):
    async with deployed(tmp_path) as deployment:
        tokens = await deployment.stub.Tokenize(generation_pb2.TokenizeRequest(text="hi"))
        plain = await deployment.stub.Detokenize(
            generation_pb2.DetokenizeRequest(token_ids=[104, 256, 105])
        )
        special = await deployment.stub.Detokenize(
            generation_pb2.DetokenizeRequest(token_ids=[104, 256], skip_special_tokens=False)
        )

    assert (list(tokens.token_ids), list(tokens.tokens)) == ([104, 105], [b"h", b"i"])
    assert (plain.text, special.text) == ("hi", "hĀ")


async def test_the_model_is_listed_with_the_servers_version(tmp_path):
    async with deployed(tmp_path) as deployment:
        await deployment.stub.Generate(generate_request())
        (model,) = (await deployment.stub.ListModels(generation_pb2.ListModelsRequest())).models

    assert (model.name, model.context_length, bool(model.version)) == ("fake", CONTEXT, True)


async def test_a_request_id_is_kept_made_or_taken_from_metadata(tmp_path):
    async with deployed(tmp_path) as deployment:
        given = deployment.stub.Generate(generate_request(request_id="mine"))
        header = deployment.stub.Generate(
            generate_request(), metadata=(("x-request-id", "theirs"),)
        )
        made = deployment.stub.Generate(generate_request())
        told = [(await call.initial_metadata())["x-request-id"] for call in (given, header)]
        answers = [(await call).request_id for call in (given, header, made)]
        submitted = [submit.request_id for submit in deployment.replica.submits.items]

    assert told == answers[:2] == ["mine", "theirs"]
    assert answers[2]
    assert sorted(submitted) == sorted(answers)


async def test_a_failed_call_is_told_its_id_too(tmp_path):
    async with deployed(tmp_path) as deployment:
        call = deployment.stub.Generate(generate_request("", request_id="mine"))
        await failure(call)

        assert (await call.initial_metadata())["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("asked", "field", "words"),
    [
        (generation_pb2.GenerateRequest(), "prompt", "missing"),
        (generate_request(""), "text", "no tokens"),
        (generate_request(token_ids=IDS()), "token_ids.ids", "no tokens"),
        (generate_request(token_ids=IDS(ids=[VOCAB := 300])), "token_ids.ids", "below 300"),
        (
            generate_request(sampling=generation_pb2.SamplingParams(top_p=float("nan"))),
            "sampling.top_p",
            "nan is not in",
        ),
        (generate_request("x" * 65), "text", "65 tokens, more than the 64"),
        (generate_request(token_ids=IDS(ids=[1] * 65)), "token_ids.ids", "65 tokens, more than"),
        (generate_request("xx", max_tokens=63), "stop.max_tokens", "make 65, more than the 64"),
        (
            generate_request(chat=generation_pb2.Chat(messages=[{"role": "bad"}])),
            "chat",
            "no such role",
        ),
        (generate_request(request_id="a\nb"), "request_id", "printable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_request_is_told_its_field_and_the_next_good_one_is_answered(
    tmp_path, asked, field, words
):
    async with deployed(tmp_path) as deployment:
        unary = await failure(deployment.stub.Generate(asked))
        stream = await failure(deployment.stub.GenerateStream(asked))
        good = await deployment.stub.Generate(generate_request())

    for error in (unary, stream):
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        info, bad_request = details_of(error)
        assert (info.reason, info.domain) == ("INVALID_REQUEST", "triptych")
        assert bad_request.field_violations[0].field == field
        assert words in bad_request.field_violations[0].description
    assert good.usage.completion_tokens == 3


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


async def test_an_unknown_model_is_not_found_by_every_call_that_names_one(tmp_path):
    async with deployed(tmp_path) as deployment:
        errors = [
            await failure(deployment.stub.Generate(generate_request(model="other"))),
            await failure(
                deployment.stub.Tokenize(generation_pb2.TokenizeRequest(model="other", text="x"))
            ),
            await failure(
                deployment.stub.Detokenize(generation_pb2.DetokenizeRequest(model="other"))
            ),
        ]

    assert [error.code() for error in errors] == [grpc.StatusCode.NOT_FOUND] * 3


async def test_bad_ids_to_detokenize_are_told(tmp_path):
    async with deployed(tmp_path) as deployment:
        error = await failure(
            deployment.stub.Detokenize(generation_pb2.DetokenizeRequest(token_ids=[300]))
        )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown token id 300" in error.details()


async def test_requests_wait_for_services_that_are_not_up_yet(tmp_path):
    async with deployed(tmp_path, fakes=False) as deployment:
        call = deployment.stub.Generate(generate_request())
        load = await deployment.stub.GetLoad(generation_pb2.GetLoadRequest())
        assert not load.replicas[0].ready
        async with deployment.serve_model(), deployment.serve_detokenizer():
            await deployment.replica.listens.until(1)
            async with deployment.serve_tokenizer():
                answer = await call

    assert answer.usage.completion_tokens == 3


async def test_metrics_tell_requests_tokens_and_links(tmp_path):
    async with deployed(tmp_path) as deployment:
        await deployment.stub.Generate(generate_request())
        await failure(deployment.stub.Generate(generate_request("")))
        text = (await deployment.introspection.Scrape(service_pb2.ScrapeRequest())).text.decode()

    assert 'triptych_router_requests_total{outcome="ok"} 1.0' in text
    assert 'triptych_router_requests_total{outcome="invalid_request"} 1.0' in text
    assert "triptych_router_output_tokens_total 3.0" in text
    assert "triptych_router_time_to_first_token_seconds_count 1.0" in text
    assert "triptych_router_queued_requests 0.0" in text
    assert 'peer="tokenizer",transport="shared_memory"} 1.0' in text


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
    replica.refusal = model_pb2.Refusal(code=3, message="prompt: id 299 at 0 is not below 280")
    async with deployed(tmp_path, replicas=[replica]) as deployment:
        by_ids = await failure(deployment.stub.Generate(generate_request(token_ids=IDS(ids=[299]))))
        by_text = await failure(deployment.stub.Generate(generate_request("x")))

    assert by_ids.details() == "token_ids.ids: id 299 at 0 is not below 280"
    assert by_text.details() == "text: id 299 at 0 is not below 280"


async def test_one_line_is_logged_for_each_request(tmp_path, caplog):
    async with deployed(tmp_path) as deployment:
        caplog.set_level("INFO", "router")
        await deployment.stub.Generate(generate_request())
        before = len([r for r in caplog.records if r.name.startswith("router")])
        await deployment.stub.Generate(generate_request())
        lines = [r for r in caplog.records if r.name.startswith("router")][before:]

    (line,) = lines
    assert (line.outcome, line.output_tokens, line.finish) == ("ok", 3, "length")
    assert line.ttft_ms > 0
