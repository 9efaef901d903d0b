"""The requests of a round."""

import itertools
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.faults.clients.workload import POISON_TOKEN, Arrival, mix
from triptych.client import Message

DEMO = Path(__file__).parents[4] / "models" / "demo"
CONTEXT = 4096


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def prompt_ids(tokenizer, prompt):
    if isinstance(prompt, str):
        return tokenizer.encode(prompt).ids
    if isinstance(prompt[0], Message):
        return list(itertools.chain(*(tokenizer.encode(one.content).ids for one in prompt)))
    return list(prompt)


def test_there_are_32_each_with_a_name_of_its_own():
    assert len({case.name for case in mix()}) == len(mix()) == 32


def test_they_are_the_same_each_time():
    assert mix() == mix()


@pytest.mark.parametrize("case", mix(), ids=lambda case: case.name)
def test_each_has_one_right_answer_fits_the_context_and_spares_the_poison(case, tokenizer):
    ids = prompt_ids(tokenizer, case.prompt)

    assert case.options.seed is not None or case.options.temperature == 0
    assert case.options.max_tokens is not None
    assert len(ids) + case.options.max_tokens < CONTEXT
    assert POISON_TOKEN not in ids


@pytest.mark.parametrize(
    "kind",
    [
        lambda case: case.streamed,
        lambda case: not case.streamed,
        lambda case: isinstance(case.prompt, str),
        lambda case: isinstance(case.prompt, list),
        lambda case: isinstance(case.prompt, tuple),
        lambda case: case.options.temperature == 0,
        lambda case: (case.options.n or 1) > 1,
        lambda case: case.options.stop,
        lambda case: case.options.stop_token_ids,
        lambda case: case.options.logit_bias,
        lambda case: case.options.logprobs,
        lambda case: case.options.prompt_logprobs,
        lambda case: case.options.priority < 0 < len(case.prompt),
        lambda case: case.options.priority > 0,
        lambda case: case.read_late,
        lambda case: case.arrival is Arrival.AT_FAULT,
        lambda case: isinstance(case.prompt, str) and len(case.prompt) > 8 << 10,
    ],
)
def test_every_kind_is_among_them(kind):
    assert any(kind(case) for case in mix())
