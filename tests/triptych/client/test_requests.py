"""What is asked for arrives in the request, and nothing else."""

import dataclasses

import numpy as np
import pytest

from protos import generation_pb2 as pb
from triptych.client.options import Message, OptionChanges, Options, choose
from triptych.client.requests import (
    DETOKENIZE,
    TOKENIZE,
    OptionError,
    check_names,
    generate_request,
    tokenize_request,
)


def test_every_option_can_be_given_as_a_keyword():
    fields = {field.name for field in dataclasses.fields(Options)}

    assert OptionChanges.__annotations__.keys() == fields


def test_defaults_leave_the_request_empty_but_for_the_prompt():
    request = generate_request("hello", Options())

    set_fields = [field.name for field, _ in request.ListFields()]
    assert set_fields == ["text", "stop", "output"]
    assert (request.stop, request.output) == (pb.StopConditions(), pb.OutputOptions())


def test_options_land_in_their_fields():
    options = Options(
        model="m",
        request_id="r",
        priority=-2,
        add_special_tokens=False,
        max_tokens=0,
        min_tokens=1,
        stop=("a", "b"),
        stop_token_ids=(5,),
        ignore_eos=True,
        include_matched=True,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.25,
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=2**64 - 1,
        logit_bias={3: -1.0, 4: float("-inf")},
        bad_words=("foul", "fouler"),
        truncate_prompt_tokens=9,
        n=2,
        token_ids=True,
        logprobs=0,
        prompt_logprobs=True,
        echo=True,
        skip_special_tokens=False,
    )

    want = pb.GenerateRequest(
        model="m",
        request_id="r",
        priority=-2,
        add_special_tokens=False,
        truncate_prompt_tokens=9,
        text="hello",
        sampling=pb.SamplingParams(
            temperature=0.0,
            top_p=0.5,
            top_k=0,
            min_p=0.25,
            repetition_penalty=2.0,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            seed=2**64 - 1,
            logit_bias={3: -1.0, 4: float("-inf")},
            bad_words=["foul", "fouler"],
            n=2,
        ),
        stop=pb.StopConditions(
            max_tokens=0,
            min_tokens=1,
            strings=["a", "b"],
            token_ids=[5],
            ignore_eos=True,
            include_matched=True,
        ),
        output=pb.OutputOptions(
            token_ids=True, logprobs=0, prompt_logprobs=True, echo=True, skip_special_tokens=False
        ),
    )
    assert generate_request("hello", options) == want


def test_one_stop_string_is_not_taken_for_its_letters():
    assert list(generate_request("x", Options(stop="END")).stop.strings) == ["END"]


def test_one_bad_word_is_not_taken_for_its_letters():
    assert list(generate_request("x", Options(bad_words="END")).sampling.bad_words) == ["END"]


@pytest.mark.parametrize(
    "ids", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), [np.uint32(1), np.int64(2)]]
)
def test_ids_become_token_ids(ids):
    assert list(generate_request(ids, Options()).token_ids.ids) == [1, 2]


def test_an_empty_list_is_sent_as_no_ids_for_the_server_to_refuse():
    assert generate_request([], Options()).WhichOneof("prompt") == "token_ids"


def test_messages_become_a_chat_with_its_arguments():
    messages = [{"role": "system", "content": "be brief"}, Message("user", "hi")]
    options = Options(
        tools=[{"name": "t"}], template_arguments={"deep": True}, continue_final_message=True
    )

    chat = generate_request(messages, options).chat

    assert [(one.role, one.content) for one in chat.messages] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    assert chat.tools_json == '[{"name": "t"}]'
    assert chat.template_arguments_json == '{"deep": true}'
    assert chat.continue_final_message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias"),
        ({"logit_bias": {"3": 0.0}}, "logit_bias"),
        ({"logit_bias": {True: 0.0}}, "logit_bias"),
        ({"logit_bias": [(3, 0.0)]}, "logit_bias"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": 5}, "prompt_logprobs"),
        ({"echo": "no"}, "echo"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": 5}, "stop_token_ids"),
        ({"stop": b"END"}, "stop"),
        ({"stop": ["END", b"END"]}, "stop"),
        ({"bad_words": ["\udcff"]}, "bad_words"),
        ({"model": b"m"}, "model"),
        ({"request_id": 7}, "request_id"),
        ({"truncate_prompt_tokens": -1}, "truncate_prompt_tokens"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"retry_s": True}, "retry_s"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(changes, named):
    with pytest.raises(OptionError, match=f"^{named}: "):
        generate_request("x", choose(None, **changes))


def test_an_option_that_is_none_is_not_sent():
    names = {field.name for field in dataclasses.fields(Options)} - {"retry_s"}

    request = generate_request("hello", Options(**dict.fromkeys(names)))

    assert (request.stop, request.output) == (pb.StopConditions(), pb.OutputOptions())
    assert (request.sampling, request.priority) == (pb.SamplingParams(), 0)


@pytest.mark.parametrize("prompt", ["hello", [1, 2]])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"name": "t"}]),
        ("template_arguments", {"deep": True}),
        ("template_name", "rag"),
        ("continue_final_message", True),
    ],
)
def test_what_only_a_chat_template_reads_is_refused_with_another_prompt(prompt, name, value):
    with pytest.raises(OptionError, match=f"^{name}: "):
        generate_request(prompt, Options(**{name: value}))


def test_truth_values_are_no_token_ids():
    with pytest.raises(OptionError, match=r"^prompt: expected integers, not True or False"):
        generate_request([1, True], Options())


@pytest.mark.parametrize("ids", [[1.0, 2], np.array([1.5]), np.array([[1, 2]]), [None]])
def test_what_is_no_token_id_is_named_as_the_prompt(ids):
    with pytest.raises(OptionError, match=r"^prompt: "):
        generate_request(ids, Options())


@pytest.mark.parametrize(
    "prompt",
    [
        *(7, None, b"bytes", {"role": "user", "content": "hi"}, {1, 2}, iter([1, 2])),
        *((one for one in "ab"), ["several", "texts"], [b"several", b"texts"]),
    ],
)
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(TypeError, match="a prompt is"):
        generate_request(prompt, Options())


@pytest.mark.parametrize(("name", "taken"), [("max_tokens", TOKENIZE), ("tools", DETOKENIZE)])
def test_a_keyword_that_a_method_does_not_send_is_refused(name, taken):
    with pytest.raises(OptionError, match=f"^{name}: "):
        check_names({"model": "m", name: 1}, taken)


def test_token_ids_are_not_tokenised_again():
    with pytest.raises(TypeError, match="token ids already"):
        tokenize_request([1, 2], Options())


def test_changes_win_over_options():
    chosen = choose(Options(max_tokens=3, seed=1), max_tokens=5)

    assert (chosen.max_tokens, chosen.seed) == (5, 1)


@pytest.mark.parametrize("prompt", ["a\udcff", [Message("user", "a\udcff")]])
def test_a_prompt_that_is_not_utf8_is_an_option_error(prompt):
    with pytest.raises(OptionError, match=r"^prompt: not UTF-8 at character 2"):
        generate_request(prompt, Options())


def test_a_stop_string_that_is_not_utf8_is_an_option_error():
    with pytest.raises(OptionError, match=r"^stop: "):
        generate_request("x", Options(stop="\udcff"))
