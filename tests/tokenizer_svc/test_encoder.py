"""A worker's ids go into the slab where they fit, and nowhere else."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from support.tiny_tokenizers import byte_level, write_checkpoint
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from chassis.errors import InvalidRequest, StartError
from chassis.memory.shared_file import HEADER_BYTES, SharedFile
from protos import generation_pb2, memory_pb2, tokenizer_pb2
from tokenizer_svc.chat_template import ChatTemplates
from tokenizer_svc.encoder import Encoder, Slabs

TOKENIZER = byte_level()
TEXT = "the quick dog"


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[SharedFile]:
    file = SharedFile.create("arena", 4096, tmp_path)
    yield file
    file.close()


@pytest.fixture
def slabs(tmp_path: Path) -> Iterator[Slabs]:
    slabs = Slabs(tmp_path)
    yield slabs
    slabs.close()


@pytest.fixture
def encoder(tmp_path: Path, slabs: Slabs) -> Encoder:
    return Encoder.load(write_checkpoint(tmp_path / "model", TOKENIZER), slabs)


def span(arena: SharedFile, length: int, offset: int = HEADER_BYTES) -> memory_pb2.Span:
    return memory_pb2.Span(name=arena.name, offset=offset, length=length)


def ids_in(source: bytes | memoryview) -> list[int]:
    return array("i", bytes(source)).tolist()


def expected(text: str, *, special: bool = True) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=special).ids


def test_ids_are_written_at_the_start_of_the_slab(encoder: Encoder, arena: SharedFile) -> None:
    slab = span(arena, 512, offset=HEADER_BYTES + 128)
    answer = encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, slab=slab))
    want = expected(TEXT)
    assert (answer.in_slab, answer.ids, answer.count) == (True, b"", len(want))
    assert ids_in(arena.view[slab.offset : slab.offset + 4 * len(want)]) == want
    assert not any(arena.view[HEADER_BYTES : slab.offset])
    assert not any(arena.view[slab.offset + 4 * len(want) :])


def test_ids_that_exactly_fill_the_slab_go_there(encoder: Encoder, arena: SharedFile) -> None:
    slab = span(arena, 4 * len(expected(TEXT)))
    assert encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, slab=slab)).in_slab


def test_ids_are_inline_where_the_slab_is_too_small(encoder: Encoder, arena: SharedFile) -> None:
    slab = span(arena, 4 * len(expected(TEXT)) - 1)
    answer = encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, slab=slab))
    assert not answer.in_slab
    assert ids_in(answer.ids) == expected(TEXT)
    assert not any(arena.view[HEADER_BYTES:])


@pytest.mark.parametrize(
    "slab",
    [
        None,
        memory_pb2.Span(),
        memory_pb2.Span(name="triptych-arena-0123456789abcdef", offset=64, length=512),
        memory_pb2.Span(name="../../etc/passwd", offset=64, length=512),
    ],
)
def test_ids_are_inline_where_the_slab_cannot_be_written(
    encoder: Encoder, slab: memory_pb2.Span | None
) -> None:
    answer = encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, slab=slab))
    assert ids_in(answer.ids) == expected(TEXT)


@pytest.mark.parametrize("offset", [0, HEADER_BYTES - 4, 4096])
def test_a_slab_outside_its_file_is_not_written(
    encoder: Encoder, arena: SharedFile, offset: int
) -> None:
    before = bytes(arena.view)
    slab = span(arena, 512, offset=offset)
    assert not encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, slab=slab)).in_slab
    assert bytes(arena.view) == before


def test_a_removed_arena_is_unmapped_when_another_comes(slabs: Slabs, tmp_path: Path) -> None:
    def mapped() -> str:
        return Path("/proc/self/maps").read_text()

    old = SharedFile.create("arena", 64, tmp_path)
    assert old.proven_by(slabs.prove(old.describe()))
    old.close()
    assert f"{old.name} (deleted)" in mapped()
    new = SharedFile.create("arena", 64, tmp_path)
    assert new.proven_by(slabs.prove(new.describe()))
    assert old.name not in mapped()
    new.close()


@pytest.mark.parametrize(("asked", "begins"), [(None, True), (True, True), (False, False)])
def test_text_begins_with_special_tokens_unless_told_otherwise(
    encoder: Encoder, asked: bool | None, begins: bool
) -> None:
    request = tokenizer_pb2.EncodeRequest(text=TEXT, add_special_tokens=asked)
    assert ids_in(encoder.encode(request).ids) == expected(TEXT, special=begins)


def test_a_chats_special_tokens_are_its_templates(encoder: Encoder) -> None:
    message = generation_pb2.ChatMessage(role="user", content="the dog")
    request = tokenizer_pb2.EncodeRequest(
        chat=generation_pb2.Chat(messages=[message]), want_text=True
    )
    answer = encoder.encode(request)
    assert answer.text == "<s><|user|>the dog</s>\n<|assistant|>"
    assert ids_in(answer.ids) == expected(answer.text, special=False)
    assert ids_in(answer.ids)[:2] == [
        TOKENIZER.token_to_id("<s>"),
        TOKENIZER.token_to_id("<|user|>"),
    ]


def test_each_tokens_bytes_are_answered_where_asked_for(encoder: Encoder) -> None:
    request = tokenizer_pb2.EncodeRequest(text="the 🌍", want_tokens=True)
    answer = encoder.encode(request)
    assert len(answer.tokens) == answer.count
    assert b"".join(answer.tokens) == "<s>the 🌍".encode()
    assert not encoder.encode(tokenizer_pb2.EncodeRequest(text="the")).tokens


def test_a_prompt_called_back_while_its_tokens_are_spelled_is_not_written(
    encoder: Encoder, arena: SharedFile
) -> None:
    request = tokenizer_pb2.EncodeRequest(text=TEXT, want_tokens=True, slab=span(arena, 512))
    with pytest.raises(asyncio.CancelledError):
        encoder.encode(request, mock.Mock(side_effect=asyncio.CancelledError))
    assert not any(arena.view[HEADER_BYTES:])


def test_an_empty_text_has_no_ids(encoder: Encoder) -> None:
    answer = encoder.encode(tokenizer_pb2.EncodeRequest(text="", add_special_tokens=False))
    assert (answer.count, answer.ids) == (0, b"")


def test_a_prompt_is_needed(encoder: Encoder) -> None:
    with pytest.raises(InvalidRequest, match="prompt: is missing"):
        encoder.encode(tokenizer_pb2.EncodeRequest())


def test_a_checkpoint_without_tokenizer_cannot_start(tmp_path: Path, slabs: Slabs) -> None:
    with pytest.raises(StartError, match=r"tokenizer\.json is missing.*save_pretrained"):
        Encoder.load(tmp_path, slabs)


def bare(model: models.Model) -> Encoder:
    return Encoder(Tokenizer(model), ChatTemplates({"default": "{{ x }}X"}, {}), Slabs())


@pytest.mark.parametrize(
    "model",
    [
        models.Unigram([("a", -1.0)], None, False),
        models.BPE({"a": 0}, [], unk_token="<unk>"),
        models.WordPiece({"a": 0}, unk_token="[UNK]"),
        models.WordLevel({"a": 0}, unk_token="[UNK]"),
    ],
)
def test_text_that_the_tokenizer_refuses_is_the_requests_error(model: models.Model) -> None:
    encoder = bare(model)
    for request, field in [
        (tokenizer_pb2.EncodeRequest(text="aX"), "text"),
        (tokenizer_pb2.EncodeRequest(chat=generation_pb2.Chat()), "chat"),
        (tokenizer_pb2.EncodeRequest(text="a", bad_words=["X"]), "sampling.bad_words"),
    ]:
        with pytest.raises(InvalidRequest, match="the tokenizer failed") as error:
            encoder.encode(request)
        assert error.value.field == field
    assert encoder.encode(tokenizer_pb2.EncodeRequest(text="a")).count == 1


class PanicException(BaseException):
    pass


@pytest.mark.parametrize(
    "failure",
    [
        PanicException("called `Option::unwrap()` on a `None` value"),
        Exception("half a pair: \ud83d"),
        TypeError(),
        OverflowError(),
        MemoryError(),
        RecursionError(),
        UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"),
    ],
)
def test_whatever_is_raised_of_a_text_is_the_requests_error(
    encoder: Encoder, failure: BaseException
) -> None:
    request = tokenizer_pb2.EncodeRequest(text="the dog")
    with (
        mock.patch.object(encoder._text, "encode", side_effect=failure),
        pytest.raises(InvalidRequest, match=r"the tokenizer failed: .") as error,
    ):
        encoder.encode(request)
    assert error.value.field == "text"
    assert error.value.description.isprintable()
    assert encoder.encode(request).count


def test_a_panic_of_the_library_is_the_requests_error() -> None:
    tokenizer = byte_level()
    # Its search gives up, and the library does not expect that.
    endless = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([endless, tokenizer.pre_tokenizer])
    encoder = Encoder(tokenizer, ChatTemplates({}, {}), Slabs())
    with pytest.raises(InvalidRequest, match="retry-limit-in-match") as error:
        encoder.encode(tokenizer_pb2.EncodeRequest(text="a" * 5000 + "b"))
    assert error.value.field == "text"
    assert encoder.encode(tokenizer_pb2.EncodeRequest(text="the dog")).count


def test_half_a_character_in_a_chat_is_the_requests_error(encoder: Encoder) -> None:
    encoder._templates = ChatTemplates({"default": "{{ tools[0] }}"}, {})
    chat = generation_pb2.Chat(tools_json=r'["\ud83d"]')
    with pytest.raises(InvalidRequest) as error:
        encoder.encode(tokenizer_pb2.EncodeRequest(chat=chat))
    assert error.value.field.startswith("chat")


def test_a_prompt_longer_than_what_fits_is_refused(encoder: Encoder) -> None:
    count = len(expected(TEXT))
    with pytest.raises(InvalidRequest, match=f"has {count} tokens; at most 2 fit") as error:
        encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, most_ids=2))
    assert error.value.field == "text"
    assert encoder.encode(tokenizer_pb2.EncodeRequest(text=TEXT, most_ids=count)).count == count


def test_a_prompt_is_shortened_from_the_left(encoder: Encoder, arena: SharedFile) -> None:
    slab = span(arena, 512)
    request = tokenizer_pb2.EncodeRequest(text=TEXT, truncate_ids=2, most_ids=2, slab=slab)
    request.want_tokens = True
    answer = encoder.encode(request)
    assert (answer.in_slab, answer.count) == (True, 2)
    assert ids_in(arena.view[HEADER_BYTES : HEADER_BYTES + 8]) == expected(TEXT)[-2:]
    assert len(answer.tokens) == 2


def test_bad_words_are_encoded_beside_the_prompt(encoder: Encoder) -> None:
    answer = encoder.encode(tokenizer_pb2.EncodeRequest(text="", bad_words=["dog", "", "dog"]))
    assert [list(word.ids) for word in answer.bad_words] == [
        expected("dog", special=False),
        expected(" dog", special=False),
    ]


def test_tells_what_bounds_a_text(encoder: Encoder) -> None:
    longest = max(len(token) for token in TOKENIZER.get_vocab())
    assert encoder.vocabulary.most_bytes_per_id == longest
