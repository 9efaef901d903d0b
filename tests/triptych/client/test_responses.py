"""Answers of servers, as results."""

import dataclasses

from protos import generation_pb2 as pb
from triptych.client import Options, responses


def told(**sampling):
    reply = pb.ListModelsResponse(
        models=[pb.Model(name="m", generation_defaults=pb.SamplingParams(**sampling))]
    )
    return responses.models(reply)[0]


def test_a_models_defaults_are_options_with_the_digits_of_its_checkpoint():
    model = told(temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.05)

    assert model.generation_defaults == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }
    assert Options(**model.generation_defaults).top_k == 20


def test_every_default_is_an_option():
    told_names = {field.name for field in pb.SamplingParams.DESCRIPTOR.fields}

    assert told_names <= {field.name for field in dataclasses.fields(Options)}


def test_defaults_of_several_values_are_plain_data():
    model = told(bad_words=["a"], logit_bias={3: -1.5})

    assert dataclasses.asdict(model)["generation_defaults"] == {
        "bad_words": ("a",),
        "logit_bias": {3: -1.5},
    }


def test_a_model_without_defaults_tells_none():
    assert told().generation_defaults == {}
    assert hash(told()) == hash(told())
