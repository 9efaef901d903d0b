"""`triptych.v1.GenerationService` over a real socket, before fake services on real sockets."""

from __future__ import annotations

import grpc
import pytest
from support.deployments.routers import (
    collect,
    deployed,
    details_of,
    failure,
    generate_request,
    held_back,
    load_until,
    texts,
)
from support.fakes.router import CONTEXT, LENGTH

from protos import generation_pb2, service_pb2

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


async def test_a_detokenizer_without_its_model_has_no_transport_yet(tmp_path):
    inline, unknown = service_pb2.TRANSPORT_INLINE, service_pb2.TRANSPORT_UNSPECIFIED
    async with deployed(tmp_path) as deployment:
        await collect(deployment.stub.GenerateStream(generate_request(max_tokens=1)))
        deployment.replica.link(False)
        await load_until(deployment, lambda load: not load.replicas[0].ready)
        described = await deployment.introspection.Describe(service_pb2.DescribeRequest())

    links = {link.service: link for link in described.links}
    assert links["detokenizer"].ready
    assert links["detokenizer"].transport == unknown
    assert links["model"].transport != inline
