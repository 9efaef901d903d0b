"""The core's types and the messages of a replica's services say the same."""

from __future__ import annotations

from protos import detokenizer_pb2
from protos import generation_pb2 as g
from router.api.requests import generation_request
from router.links.messages import delta_of, model_info, registration, submission
from router.requests.prompt_arena import Prompt
from router.requests.request import RouterRequest
from router.requests.results import Finish
from router.requests.validation import Limits, resolve

LIMITS = Limits(model="m", context_length=100, vocab_size=50, kv_slots=100)
SENT = g.GenerateRequest(
    text="x",
    sampling=g.SamplingParams(
        temperature=0.5, top_p=0.25, top_k=3, min_p=0.125, repetition_penalty=2,
        presence_penalty=-1, frequency_penalty=1, seed=5, logit_bias={3: -4.0}, n=2,
        bad_words=["x"],
    ),
    stop=g.StopConditions(
        max_tokens=9, min_tokens=1, strings=["a", "b"], token_ids=[5], ignore_eos=True,
        include_matched=True,
    ),
    output=g.OutputOptions(
        token_ids=True, logprobs=2, prompt_logprobs=True, echo=True, skip_special_tokens=False
    ),
    priority=-2,
)  # fmt: skip


def running(sent: g.GenerateRequest = SENT) -> RouterRequest:
    prompt = Prompt(3, None, bytes(12), bad_words=[(1, 2), (3,)])
    return RouterRequest(7, "id", resolve(generation_request(sent), 3, LIMITS), prompt, 1)


async def test_parameters_reach_both_services_as_they_were_sent():
    request = running()
    submit, register = submission(request), registration(request)
    sampling = g.SamplingParams()
    sampling.CopyFrom(SENT.sampling)
    sampling.ClearField("bad_words")  # which reach the model as ids
    assert submit.sampling == sampling
    assert [list(words.ids) for words in submit.bad_words] == [[1, 2], [3]]
    assert submit.stop == register.stop == SENT.stop
    assert register.output == SENT.output
    assert (submit.logprobs, submit.prompt_logprobs, submit.priority) == (2, True, -2)
    assert register.candidates == 2


async def test_parameters_that_were_not_sent_stay_unset():
    submit = submission(running(g.GenerateRequest(text="x")))
    assert {field.name for field, _ in submit.sampling.ListFields()} == {"seed", "n"}
    assert submit.stop == g.StopConditions(max_tokens=97)
    assert not submit.HasField("logprobs")


def test_a_delta_is_read_whole():
    message = detokenizer_pb2.TextDelta(
        handle=1 << 63, attempt=2, candidate=3, position=4, token_ids=[5, 6], text="ab",
        finish_reason=g.FINISH_REASON_STOP, matched_token_id=0,
        logprobs=[g.TokenLogprob(token_id=5, top=[g.TokenLogprob(token_id=1)])],
        prompt_logprobs=[g.TokenLogprob(token_id=9)], prompt_position=1,
    )  # fmt: skip
    delta = delta_of(message)
    assert (delta.handle, delta.attempt, delta.candidate, delta.position) == (1 << 63, 2, 3, 4)
    assert (list(delta.token_ids), delta.text) == ([5, 6], "ab")
    assert (delta.finish, delta.matched_stop, delta.matched_token_id) == (Finish.STOP, None, 0)
    assert list(delta.logprobs) == list(message.logprobs)
    assert (list(delta.prompt_logprobs), delta.prompt_position) == (
        list(message.prompt_logprobs),
        1,
    )


def test_log_probabilities_do_not_keep_the_message_they_came_in():
    message = detokenizer_pb2.TextDelta(logprobs=[g.TokenLogprob(token_id=5)])
    delta = delta_of(message)
    message.logprobs[0].token_id = 6
    assert delta.logprobs[0].token_id == 5


def test_an_empty_stop_string_match_is_told_from_none():
    ended = detokenizer_pb2.TextDelta(finish_reason=g.FINISH_REASON_STOP, matched_stop="END")
    assert delta_of(ended).matched_stop == "END"
    assert delta_of(detokenizer_pb2.TextDelta()).matched_stop is None
    for number, reason in enumerate(Finish):
        assert delta_of(detokenizer_pb2.TextDelta(finish_reason=number)).finish is reason
        assert g.FinishReason.Name(number) == f"FINISH_REASON_{reason.name}"


def test_a_model_that_recommends_no_sampling_has_no_defaults():
    assert model_info(g.Model(name="m")).defaults is None
    defaults = g.SamplingParams(temperature=0)
    told = model_info(g.Model(name="m", generation_defaults=defaults)).defaults
    assert told is not None
    assert told.temperature == 0
