"""Requests of the protocol become the core's, and the core's errors get the protocol's paths."""

from __future__ import annotations

import pytest

from chassis.errors import InvalidRequest, NotFound
from protos import generation_pb2 as g
from router.api.requests import (
    generation_request,
    prompt_path,
    special_tokens,
    text_prompt,
    with_path,
)
from router.requests.generation_request import IdsPrompt, TextPrompt
from router.requests.parameters import OutputOptions, SamplingParams, StopConditions

TEXT = g.GenerateRequest(text="x")
IDS = g.GenerateRequest(token_ids=g.TokenIds(ids=[1, 2]))
CHAT = g.GenerateRequest(chat=g.Chat(messages=[g.ChatMessage(role="user", content="hi")]))


def test_nothing_is_set_where_nothing_was_sent():
    request = generation_request(TEXT)
    assert request.prompt == TextPrompt("x")
    assert request.sampling == SamplingParams()
    assert request.stop == StopConditions()
    assert request.output == OutputOptions()


def test_zeroes_that_were_sent_are_set():
    sampling = g.SamplingParams(temperature=0, top_k=0, seed=0, presence_penalty=0)
    stop = g.StopConditions(max_tokens=0)
    request = generation_request(
        g.GenerateRequest(text="", sampling=sampling, stop=stop, output=g.OutputOptions(logprobs=0))
    )
    assert request.sampling == SamplingParams(temperature=0, top_k=0, seed=0, presence_penalty=0)
    assert request.stop == StopConditions(max_tokens=0)
    assert request.output == OutputOptions(logprobs=0)


def test_every_parameter_arrives():
    sampling = g.SamplingParams(
        temperature=0.5, top_p=0.25, top_k=3, min_p=0.125, repetition_penalty=2,
        presence_penalty=-1, frequency_penalty=1, seed=1 << 63, logit_bias={3: -4.0}, n=2,
        bad_words=["x"],
    )  # fmt: skip
    stop = g.StopConditions(
        max_tokens=9, min_tokens=1, strings=["a", "b"], token_ids=[5], ignore_eos=True,
        include_matched=True,
    )  # fmt: skip
    output = g.OutputOptions(
        token_ids=True, logprobs=2, prompt_logprobs=True, echo=True, skip_special_tokens=False
    )
    for part in (sampling, stop, output):
        assert len(part.ListFields()) == len(part.DESCRIPTOR.fields), "one is missing above"
    request = generation_request(
        g.GenerateRequest(
            text="x", sampling=sampling, stop=stop, output=output, model="m", priority=-2,
            add_special_tokens=False, truncate_prompt_tokens=7,
        )
    )  # fmt: skip
    assert request.sampling == SamplingParams(
        0.5, 0.25, 3, 0.125, 2, -1, 1, 1 << 63, {3: -4.0}, 2, ("x",)
    )
    assert request.stop == StopConditions(9, 1, ("a", "b"), (5,), True, True)
    assert request.output == OutputOptions(True, 2, True, True, False)
    assert (request.model, request.priority) == ("m", -2)
    assert (request.add_special_tokens, request.truncate_prompt_tokens) == (False, 7)


def test_a_request_without_its_prompt_keeps_the_rest():
    request = generation_request(
        g.GenerateRequest(
            text="long", model="m", priority=3, add_special_tokens=True, truncate_prompt_tokens=2
        )
    )
    light = request.without_prompt()
    assert light.prompt == IdsPrompt(())
    light.prompt = request.prompt
    assert light == request


@pytest.mark.parametrize(
    ("sent", "field"),
    [(g.GenerateRequest(), "prompt"), (g.GenerateRequest(chat=g.Chat()), "chat.messages")],
)
def test_a_missing_prompt_is_named(sent, field):
    with pytest.raises(InvalidRequest) as error:
        generation_request(sent)
    assert error.value.field == field


def test_a_chat_travels_unread_with_the_number_of_its_messages():
    prompt = text_prompt(CHAT)
    assert not isinstance(prompt, TextPrompt)
    assert (g.Chat.FromString(prompt.encoded), prompt.messages) == (CHAT.chat, 1)


@pytest.mark.parametrize(
    ("sent", "path"), [(TEXT, "text"), (IDS, "token_ids.ids"), (CHAT, "chat")], ids=str
)
def test_an_error_about_the_prompt_gets_its_path(sent, path):
    error = with_path(InvalidRequest("prompt", "too long"), prompt_path(sent))
    assert isinstance(error, InvalidRequest)
    assert (error.field, error.description) == (path, "too long")


def test_other_errors_stay_as_they_are():
    for error in (InvalidRequest("stop.max_tokens", "too many"), NotFound("no such model")):
        assert with_path(error, "text") is error


def test_special_tokens_may_be_unset():
    assert special_tokens(TEXT) is None
    assert special_tokens(g.TokenizeRequest(add_special_tokens=False)) is False
