"""The blocking client, over a real socket."""

import pytest

import triptych
from triptych import CandidateText, Client, FinishReason, TokenLogprob, Usage

WORDS = ("Once ", "upon ", "a ", "time")


def test_generate_answers_all_candidates_typed(server):
    with Client(server.address) as client:
        answer = client.generate("hello", n=2, logprobs=1, echo=True, request_id="mine")

    assert answer.request_id == "mine"
    assert answer.text == "Once upon a time"
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage == Usage(7, 8, 1)
    assert answer.prompt is not None
    assert answer.prompt.text == "hello"
    assert answer.candidates[1] == CandidateText(
        index=1,
        text="Once upon a time",
        token_ids=(0, 1, 2, 3),
        finish_reason=FinishReason.LENGTH,
        logprobs=(TokenLogprob(1, b"a", -0.5, (TokenLogprob(1, b"", -0.5),)),),
    )


def test_stream_yields_parts_and_ends_with_the_usage(server):
    with Client(server.address) as client:
        deltas = list(client.stream("hello"))

    assert tuple(one.text for one in deltas) == WORDS
    assert [one.usage for one in deltas] == [None, None, None, Usage(7, 4, 1)]
    assert [one.finish_reason for one in deltas] == [None, None, None, FinishReason.STOP]
    assert deltas[-1].candidates[0].matched_token_id == 2
    assert deltas[-1].candidates[0].matched_stop is None


def test_leaving_the_loop_cancels_the_call(server):
    with Client(server.address) as client:
        for _ in client.stream("endless"):
            break

        assert server.generation.cancelled.wait(10)


def test_closing_the_iterator_cancels_the_call(server):
    with Client(server.address) as client:
        stream = client.stream("endless")
        next(stream)
        stream.close()

        assert server.generation.cancelled.wait(10)


def test_tokenize_and_detokenize_are_inverse(server):
    with Client(server.address) as client:
        tokens = client.tokenize("añb")

        assert tokens.pieces[1] == b"\xc3"
        assert client.detokenize(tokens.ids) == "añb"
        assert client.tokenize([{"role": "user", "content": "hi"}]).ids == (104, 105)


def test_models_and_load_are_typed(server):
    with Client(server.address) as client:
        (model,) = client.models()
        load = client.load()

    assert (model.name, model.context_length) == ("fake", 512)
    assert (load.queued, load.running, load.kv_slots_used, load.kv_slots_total) == (3, 2, 16, 64)
    assert load.replicas[0].address == "unix:/nowhere/model.sock"


def test_invalid_request_names_the_field(server):
    with Client(server.address) as client, pytest.raises(triptych.InvalidRequest) as caught:
        client.generate("invalid")

    assert caught.value.reason == "INVALID_REQUEST"
    assert caught.value.violations == (
        triptych.FieldViolation("sampling.top_p", "must be in (0, 1]"),
    )


def test_overloaded_says_when_to_come_back(server):
    with Client(server.address) as client, pytest.raises(triptych.Overloaded) as caught:
        list(client.stream("overloaded"))

    assert caught.value.retry_after_s == 2.5
    assert caught.value.address == server.address


def test_a_failure_keeps_its_reason(server):
    with Client(server.address) as client, pytest.raises(triptych.InternalError) as caught:
        client.generate("crashing")

    assert caught.value.reason == "IMPLICATED_IN_CRASHES"


def test_an_unknown_model_is_not_found(server):
    with Client(server.address) as client, pytest.raises(triptych.NotFound):
        client.generate("hello", model="unknown")


def test_the_timeout_ends_a_call(server):
    with Client(server.address) as client, pytest.raises(triptych.DeadlineExceeded):
        client.generate("endless", timeout=0.2)

    assert server.generation.cancelled.wait(10)


def test_nobody_there_is_unavailable_without_a_reason(nobody):
    with Client(nobody) as client, pytest.raises(triptych.Unavailable) as caught:
        client.generate("hello", retry_s=0)

    assert caught.value.reason == ""


def test_the_next_request_after_a_refused_one_succeeds(server):
    with Client(server.address) as client:
        with pytest.raises(triptych.TriptychError):
            client.generate("invalid")

        assert client.generate("hello").text == "Once upon a time"
