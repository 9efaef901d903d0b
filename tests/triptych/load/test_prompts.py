"""Prompts of exact lengths."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from triptych.load.prompts import Prompts, text


@given(st.integers(1, 50), st.integers(0, 1000), st.integers(1, 200))
def test_a_prompt_has_its_length_and_follows_the_text_round(size, number, length):
    ids = Prompts(range(size)).cut(number, length)

    assert len(ids) == length
    assert all((b - a) % size == 1 % size for a, b in itertools.pairwise(ids))


def test_prompts_of_a_run_begin_at_different_places():
    prompts = Prompts(range(20_000))

    assert len({prompts.cut(number, 1)[0] for number in range(5_000)}) == 5_000


def test_the_text_is_long_enough_to_vary():
    assert len(text()) > 50_000
