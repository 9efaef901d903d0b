"""Every refusal a client can rely on, through a real client; the next good request is answered."""

import math

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos import generation_pb2 as g

CONTEXT_TOO_LONG = [5] * 5000


def details(error):
    """The google.rpc details of an error, by type name."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            boxes = status_pb2.Status.FromString(value).details
            return {box.TypeName().rpartition(".")[2]: box for box in boxes}
    raise AssertionError("the error carries no google.rpc.Status")


def unpack(box, kind):
    message = kind()
    assert box.Unpack(message)
    return message


@pytest.fixture(autouse=True)
def _next_good_request_is_answered(deployment):
    yield
    good = g.GenerateRequest(text="still here", stop=g.StopConditions(max_tokens=2))
    assert deployment.api.Generate(good, timeout=30).usage.completion_tokens >= 1


def refused(deployment, message, method="Generate"):
    with pytest.raises(grpc.RpcError) as raised:
        getattr(deployment.api, method)(message, timeout=30)
    info = unpack(details(raised.value)["ErrorInfo"], error_details_pb2.ErrorInfo)
    assert info.domain == "triptych"
    assert info.reason
    return raised.value


def text(**fields):
    sampling = g.SamplingParams(**fields.pop("sampling", {}))
    stop = g.StopConditions(**fields.pop("stop", {}))
    output = g.OutputOptions(**fields.pop("output", {}))
    return g.GenerateRequest(text="hello", sampling=sampling, stop=stop, output=output, **fields)


BAD_FIELDS = [
    (g.GenerateRequest(), "prompt"),
    (g.GenerateRequest(text=""), "text"),
    (g.GenerateRequest(token_ids=g.TokenIds()), "token_ids"),
    (g.GenerateRequest(token_ids=g.TokenIds(ids=[1, 999_999])), "token_ids"),
    (g.GenerateRequest(chat=g.Chat()), "chat"),
    (
        g.GenerateRequest(
            chat=g.Chat(messages=[g.ChatMessage(role="user")], tools_json="{not json")
        ),
        "chat.tools_json",
    ),
    (g.GenerateRequest(chat=g.Chat(messages=[g.ChatMessage(role="pirate")])), "chat"),
    (text(sampling={"temperature": -1}), "sampling.temperature"),
    (text(sampling={"temperature": math.nan}), "sampling.temperature"),
    (text(sampling={"top_p": 0}), "sampling.top_p"),
    (text(sampling={"top_p": 1.5}), "sampling.top_p"),
    (text(sampling={"min_p": 2}), "sampling.min_p"),
    (text(sampling={"repetition_penalty": 0}), "sampling.repetition_penalty"),
    (text(sampling={"presence_penalty": math.inf}), "sampling.presence_penalty"),
    (text(sampling={"frequency_penalty": math.nan}), "sampling.frequency_penalty"),
    (text(sampling={"n": 17}), "sampling.n"),
    (text(sampling={"logit_bias": {999_999: 1.0}}), "sampling.logit_bias"),
    (text(sampling={"logit_bias": {1: math.nan}}), "sampling.logit_bias"),
    (text(stop={"strings": [""]}), "stop.strings"),
    (text(stop={"token_ids": [999_999]}), "stop.token_ids"),
    (text(stop={"max_tokens": 2, "min_tokens": 3}), "stop.min_tokens"),
    (text(output={"logprobs": 21}), "output.logprobs"),
]


@pytest.mark.parametrize(
    ("message", "field"), BAD_FIELDS, ids=lambda v: v if type(v) is str else ""
)
@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
def test_a_bad_field_is_named(deployment, message, field, method):
    if method == "GenerateStream":
        with pytest.raises(grpc.RpcError) as raised:
            list(deployment.api.GenerateStream(message, timeout=30))
        error = raised.value
    else:
        error = refused(deployment, message)

    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    bad = unpack(details(error)["BadRequest"], error_details_pb2.BadRequest)
    assert bad.field_violations[0].field.startswith(field)


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        (g.GenerateRequest(token_ids=g.TokenIds(ids=CONTEXT_TOO_LONG)), ["5000", "{context}"]),
        (text(stop={"max_tokens": 1_000_000}), ["1000000", "{context}"]),
    ],
    ids=["prompt", "max_tokens"],
)
def test_what_can_never_fit_is_told_both_numbers(deployment, message, numbers):
    (model,) = deployment.api.ListModels(g.ListModelsRequest(), timeout=10).models

    error = refused(deployment, message)

    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    said = error.details().replace(",", "")
    for number in numbers:
        assert number.format(context=model.context_length) in said


def test_an_unknown_model_is_not_found(deployment):
    error = refused(deployment, text(model="gpt-17"))

    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "gpt-17" in error.details()
    assert "tiny" in error.details(), "it says which there are"


def test_a_message_over_the_limit_is_refused_by_grpc(deployment):
    with pytest.raises(grpc.RpcError) as raised:
        deployment.api.Generate(g.GenerateRequest(text="x" * (33 << 20)), timeout=60)

    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_passed_deadline_says_so_and_frees_the_slots(deployment):
    long = text(stop={"max_tokens": 900, "ignore_eos": True})
    with pytest.raises(grpc.RpcError) as raised:
        deployment.api.Generate(long, timeout=0.15)

    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    deployment.settled_load()


@pytest.mark.parametrize("method", ["Tokenize", "Detokenize"])
def test_other_methods_name_their_fields_too(deployment, method):
    message = g.TokenizeRequest() if method == "Tokenize" else g.DetokenizeRequest()
    if method == "Detokenize":
        message.token_ids.append(999_999)

    error = refused(deployment, message, method)

    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "BadRequest" in details(error)


def test_rubbish_bytes_in_a_text_field_do_not_reach_the_services(deployment):
    rubbish = deployment.channel.unary_unary(
        "/triptych.v1.GenerationService/Generate",
        request_serializer=bytes,
        response_deserializer=g.GenerateResponse.FromString,
    )
    with pytest.raises(grpc.RpcError) as raised:
        rubbish(b"\x1a\xff\xff\xff\xff\xff\xff", timeout=10)

    assert raised.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
