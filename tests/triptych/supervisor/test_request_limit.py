"""The largest request that a checkpoint's router need take."""

import json

import pytest

from router.requests.sizes import Sizes
from router.settings import RouterSettings
from triptych.supervisor.request_limit import TEXT_BYTES, find_request_limit

MIB = 1 << 20
LEAST_MIB = 10  # twice the longest text and a MiB


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint's folder with a context of so many ids, and a tokenizer of these parts."""

    def make(context, vocab, **parts):
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
        tokenizer = {"model": {"vocab": vocab}, **parts}
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        return tmp_path

    return make


def test_a_text_as_the_router_bounds_it_always_has_room(checkpoint):
    settings = RouterSettings(listen="unix:a", tokenizer="unix:b", replicas="unix:c+unix:d")

    assert settings.max_text_kib << 10 == TEXT_BYTES
    assert find_request_limit(checkpoint(4096, {"a": 0}), {}) == LEAST_MIB


@pytest.mark.parametrize(
    ("vocab", "parts", "longest"),
    [
        ({"a": 0, "b" * 100: 1}, {}, 100),
        ([["a", -1.0], ["▁" * 40, -2.0]], {"normalizer": None}, 120),
        ({"a": 0}, {"added_tokens": [{"content": "<" + "x" * 90 + ">"}]}, 92),
        ({"a": 0, "b" * 50: 1}, {"normalizer": {"type": "NFC"}}, 200),
    ],
)
def test_the_longest_legal_prompt_fits(checkpoint, vocab, parts, longest):
    context = 100_000
    limit = find_request_limit(checkpoint(context, vocab, **parts), {})
    sizes = Sizes(32 * MIB, TEXT_BYTES, prompt_ids=context, bytes_per_id=longest)

    assert sizes.longest_message < limit * MIB <= 2 * (context * longest + MIB) + MIB


def test_a_prompt_of_ids_fits_where_tokens_are_short(checkpoint):
    assert find_request_limit(checkpoint(10 * MIB, {"a": 0}), {}) == 2 * (10 * 5 + 1)


@pytest.mark.parametrize("name", ["MAX_TEXT_KIB", "MAX_MESSAGE_MIB"])
def test_an_operator_who_bounds_the_router_is_not_overruled(checkpoint, name):
    environment = {f"TRIPTYCH_ROUTER_{name}": "8000"}

    assert find_request_limit(checkpoint(4096, {"a": 0}), environment) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{}"),
        ("config.json", "["),
        ("config.json", "[]"),
        ("config.json", '{"max_position_embeddings": null}'),
        ("tokenizer.json", "null"),
        ("tokenizer.json", '{"model": {"vocab": {}}}'),
        ("tokenizer.json", '{"model": {"vocab": [1]}}'),
        ("tokenizer.json", "\xff"),
    ],
)
def test_files_that_tell_nothing_bound_nothing(checkpoint, name, text):
    folder = checkpoint(4096, {"a": 0})
    (folder / name).write_text(text, encoding="latin-1")

    assert find_request_limit(folder, {}) is None


def test_a_missing_tokenizer_bounds_nothing(checkpoint):
    folder = checkpoint(4096, {"a": 0})
    (folder / "tokenizer.json").unlink()

    assert find_request_limit(folder, {}) is None
