"""The public contract through four real processes, over shared memory and inline."""

import itertools
import math

import grpc
import pytest

from protos import generation_pb2 as g

PROMPT = "The quick brown fox"


def request(text=PROMPT, max_tokens=12, **changes):
    message = g.GenerateRequest(text=text, **changes)
    message.sampling.temperature = changes.get("sampling", message.sampling).temperature
    message.stop.max_tokens = max_tokens
    message.stop.ignore_eos = True
    message.output.token_ids = True
    return message


def generate(deployment, message, timeout=30):
    return deployment.api.Generate(message, timeout=timeout)


def test_a_stream_says_what_the_unary_call_says(deployment):
    whole = generate(deployment, request())
    parts = list(deployment.api.GenerateStream(request(), timeout=30))

    (candidate,) = whole.candidates
    assert len(candidate.token_ids) == 12
    assert [t for p in parts for d in p.deltas for t in d.token_ids] == candidate.token_ids
    assert "".join(d.text for p in parts for d in p.deltas) == candidate.text
    assert candidate.finish_reason == g.FINISH_REASON_LENGTH
    finishes = [d.finish_reason for p in parts for d in p.deltas]
    assert finishes[-1] == g.FINISH_REASON_LENGTH
    assert not any(finishes[:-1])
    assert [p.HasField("usage") for p in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 12


def test_text_is_the_ids_detokenised(deployment):
    ids = generate(deployment, request(max_tokens=30)).candidates[0]
    text = deployment.api.Detokenize(g.DetokenizeRequest(token_ids=ids.token_ids), timeout=10).text

    assert ids.text == text


def test_ids_given_as_a_prompt_are_the_text_they_came_from(deployment):
    ids = deployment.api.Tokenize(g.TokenizeRequest(text=PROMPT), timeout=10)
    assert b"".join(ids.tokens).endswith(PROMPT.encode())

    by_ids = g.GenerateRequest(token_ids=g.TokenIds(ids=ids.token_ids))
    by_ids.MergeFrom(request())
    by_ids.token_ids.ids[:] = ids.token_ids

    assert generate(deployment, by_ids).candidates == generate(deployment, request()).candidates


def test_the_same_seed_draws_the_same_tokens_and_candidates_differ(deployment):
    message = request(max_tokens=16, sampling=g.SamplingParams(temperature=1.0, seed=42, n=3))
    message.sampling.temperature = 1.0

    first, second = generate(deployment, message), generate(deployment, message)

    assert first.candidates == second.candidates
    assert [c.index for c in first.candidates] == [0, 1, 2]
    assert len({tuple(c.token_ids) for c in first.candidates}) == 3
    assert first.usage.completion_tokens == 48


def test_a_stop_string_ends_the_text_before_itself(deployment):
    free = generate(deployment, request(max_tokens=40)).candidates[0]
    stop = free.text[10:13]
    cut = request(max_tokens=40)
    cut.stop.strings.append(stop)
    kept = request(max_tokens=40)
    kept.stop.strings.append(stop)
    kept.stop.include_matched = True

    ended = generate(deployment, cut).candidates[0]

    assert ended.text == free.text[: free.text.index(stop)]
    assert ended.matched_stop == stop
    assert ended.finish_reason == g.FINISH_REASON_STOP
    assert len(ended.token_ids) < 40
    assert generate(deployment, kept).candidates[0].text == ended.text + stop


def test_a_stop_id_is_the_last_id_and_not_in_the_text(deployment):
    free = generate(deployment, request(max_tokens=20)).candidates[0]
    ended_by = request(max_tokens=20)
    ended_by.stop.token_ids.append(free.token_ids[5])

    ended = generate(deployment, ended_by).candidates[0]

    first = list(free.token_ids).index(free.token_ids[5])
    assert list(ended.token_ids) == list(free.token_ids[: first + 1])
    assert ended.matched_token_id == free.token_ids[5]
    assert free.text.startswith(ended.text)


def test_log_probabilities_are_of_the_chosen_tokens_and_sorted_alternatives(deployment):
    message = request(max_tokens=5)
    message.output.logprobs = 3

    candidate = generate(deployment, message).candidates[0]

    assert [entry.token_id for entry in candidate.logprobs] == candidate.token_ids
    for entry in candidate.logprobs:
        tops = [other.logprob for other in entry.top]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert math.isclose(entry.logprob, tops[0], rel_tol=1e-5), "greedy takes the likeliest"


def test_scoring_a_prompt_gives_its_log_probabilities_and_no_token(deployment):
    message = request(max_tokens=0)
    message.output.prompt_logprobs = True
    message.output.echo = True

    response = generate(deployment, message)

    assert response.prompt.text == PROMPT
    assert len(response.prompt.logprobs) == response.usage.prompt_tokens
    assert response.prompt.logprobs[0].logprob == 0
    assert all(entry.logprob < 0 for entry in response.prompt.logprobs[1:])
    assert response.usage.completion_tokens == 0
    assert response.candidates[0].finish_reason == g.FINISH_REASON_LENGTH


def test_a_bias_and_a_penalty_reach_the_model(deployment):
    banned = generate(deployment, request(max_tokens=4)).candidates[0].token_ids[0]
    biased = request(max_tokens=4)
    biased.sampling.logit_bias[banned] = -100.0
    assert banned not in generate(deployment, biased).candidates[0].token_ids

    penalised = request(max_tokens=30)
    penalised.sampling.presence_penalty = 1000.0
    ids = generate(deployment, penalised).candidates[0].token_ids
    assert len(set(ids)) == 30, "a token seen once is never drawn again"


def test_no_stop_token_comes_before_min_tokens(deployment):
    stop = generate(deployment, request(max_tokens=1)).candidates[0].token_ids[0]
    message = request(max_tokens=12)
    message.stop.token_ids.append(stop)
    assert len(generate(deployment, message).candidates[0].token_ids) == 1

    message.stop.min_tokens = 6
    ids = generate(deployment, message).candidates[0].token_ids
    assert len(ids) > 6
    assert stop not in ids[:6]


def test_a_chat_goes_through_the_template(deployment):
    chat = g.Chat(messages=[g.ChatMessage(role="user", content="hello")])
    message = g.GenerateRequest(chat=chat, stop=g.StopConditions(max_tokens=3))
    message.output.echo = True

    response = generate(deployment, message)

    assert "hello" in response.prompt.text
    rendered = deployment.api.Tokenize(g.TokenizeRequest(chat=chat), timeout=10)
    assert response.usage.prompt_tokens == len(rendered.token_ids)


def test_the_request_id_comes_back_in_messages_and_metadata(deployment):
    named = request(max_tokens=1)
    named.request_id = "mine"
    call = deployment.api.GenerateStream(named, timeout=10)
    assert dict(call.initial_metadata())["x-request-id"] == "mine"
    assert {part.request_id for part in call} == {"mine"}

    metadata = (("x-request-id", "from-the-mesh"),)
    response = deployment.api.Generate(request(max_tokens=1), metadata=metadata, timeout=10)
    assert response.request_id == "from-the-mesh"

    assert generate(deployment, request(max_tokens=1)).request_id


def test_the_model_is_listed_and_can_be_named(deployment):
    (model,) = deployment.api.ListModels(g.ListModelsRequest(), timeout=10).models
    assert (model.name, model.architecture, model.dtype) == ("tiny", "LlamaForCausalLM", "float32")

    named = request(max_tokens=1)
    named.model = "tiny"
    assert generate(deployment, named).candidates


def test_a_prompt_longer_than_a_step_is_answered(deployment):
    text = "".join(itertools.islice(itertools.cycle("abcdefgh "), 700))

    response = generate(deployment, request(text=text, max_tokens=4))

    assert response.usage.prompt_tokens >= 700
    assert len(response.candidates[0].token_ids) == 4


def test_cancelling_frees_the_slots(deployment):
    long = request(max_tokens=800)
    call = deployment.api.GenerateStream(long, timeout=60)
    next(call)
    call.cancel()
    with pytest.raises(grpc.RpcError):
        list(call)

    deployment.settled_load()


def test_the_transport_is_what_the_deployment_was_told(shared_deployment, inline_deployment):
    from protos import service_pb2

    for deployed, transport in (
        (shared_deployment, service_pb2.TRANSPORT_SHARED_MEMORY),
        (inline_deployment, service_pb2.TRANSPORT_INLINE),
    ):
        links = deployed.links()
        assert {name: link.transport for name, link in links.items()} == dict.fromkeys(
            ("tokenizer", "model", "detokenizer"), transport
        )
        assert all(link.ready for link in links.values())
