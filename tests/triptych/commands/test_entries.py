"""Entries of one line and of several."""

import os

import pytest

from triptych.commands.entries import as_utf8, read_entry


def entries(*lines):
    """All entries that the lines make up."""
    waiting = list(lines)

    def read(_prompt):
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    found = []
    while True:
        try:
            found.append(read_entry(read, "> "))
        except EOFError:
            return found


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["one", "", "two"], ["one", "", "two"]),
        (["one\\", "two\\", "three", "four"], ["one\ntwo\nthree", "four"]),
        (["one\\"], ["one"]),
        (['"""one"""', "two"], ["one", "two"]),
        (['"""', "one", "", "two", '"""', "three"], ["\none\n\ntwo\n", "three"]),
        (['"""one', 'two"""  '], ["one\ntwo"]),
        (['"""one', "two"], ["one\ntwo"]),
        (['say """ aloud'], ['say """ aloud']),
    ],
)
def test_lines_make_up_entries(lines, found):
    assert entries(*lines) == found


def test_the_prompt_of_further_lines_is_as_wide():
    prompts = []

    def read(prompt):
        prompts.append(prompt)
        return "a\\" if len(prompts) == 1 else "b"

    read_entry(read, "you> ")

    assert [len(prompt) for prompt in prompts] == [5, 5]


def test_an_argument_is_decoded_again_only_where_it_could_not_be():
    assert as_utf8("café") == "café"
    assert as_utf8("caf\udcff") == "caf\udcff"
    assert as_utf8(os.fsdecode("café".encode())) == "café"
    assert as_utf8("caf\udcc3\udca9") == "café"
