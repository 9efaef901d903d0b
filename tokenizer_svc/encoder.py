"""Work on one prompt: render, encode, and place the ids.

Ids are written only inside the slab that the request names, and before it is answered.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from chassis.errors import InvalidRequest, StartError, refuse_failures
from chassis.memory.shared_file import FOLDER, PeerFiles
from protos import generation_pb2, memory_pb2, tokenizer_pb2
from protos.vocabulary.token_bytes import TokenBytes
from protos.vocabulary.tokenizer_files import VocabularyError, load_tokenizer
from tokenizer_svc.chat_template import ChatTemplates
from tokenizer_svc.text.bad_words import spellings
from tokenizer_svc.text.fork import Between
from tokenizer_svc.text.text_encoder import PIECE_CHARACTERS, TextEncoder, Wanted


class Slabs:
    """The routers' arenas, as far as this process can write them."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = PeerFiles(folder, writable=True)

    def prove(self, arena: memory_pb2.SharedFile) -> memory_pb2.SharedProof:
        """Map an arena writable and answer its nonce; an empty proof if that fails."""
        return self._files.prove(arena)

    def write(self, slab: memory_pb2.Span, ids: array[int]) -> bool:
        """Put `ids` at the start of `slab`; True if they fit a slab that can be written."""
        size = len(ids) * ids.itemsize
        if size > slab.length or not self.prove(memory_pb2.SharedFile(name=slab.name)).nonce:
            return False
        try:
            view = self._files.view(slab)
        except ValueError:
            return False
        view[:size] = memoryview(ids).cast("B")
        return True

    def close(self) -> None:
        """Unmap all arenas."""
        self._files.close()


def _go_on(until: int | None = None) -> None:
    """Do nothing between pieces."""


class Encoder:
    """A checkpoint's tokenizer and templates."""

    def __init__(self, tokenizer: Tokenizer, templates: ChatTemplates, slabs: Slabs) -> None:
        self._text = TextEncoder(tokenizer)
        self._token_bytes = TokenBytes(tokenizer)
        self._templates = templates
        self._slabs = slabs

    @classmethod
    def load(cls, folder: Path, slabs: Slabs) -> Encoder:
        """Read a checkpoint's tokenizer and templates.

        Raises:
            StartError: the tokenizer is missing or malformed, or a template is.
        """
        try:
            tokenizer = load_tokenizer(folder)
        except VocabularyError as error:
            raise StartError(str(error)) from error
        return cls(tokenizer, ChatTemplates.load(folder), slabs)

    @property
    def vocabulary(self) -> tokenizer_pb2.GetVocabularyResponse:
        """The bound on the length of a text."""
        return tokenizer_pb2.GetVocabularyResponse(most_bytes_per_id=self._text.most_bytes_per_id)

    def encode(
        self, request: tokenizer_pb2.EncodeRequest, between: Between = _go_on
    ) -> tokenizer_pb2.EncodeResponse:
        """Answer `EncodeRequest`.

        Args:
            request: what to encode.
            between: called where long work can be interrupted; what it raises ends the work.

        Raises:
            InvalidRequest: there is no prompt, or it cannot be rendered or encoded, or it is too
                long.
        """
        kind = request.WhichOneof("prompt")
        if kind is None:
            raise InvalidRequest("prompt", "is missing")
        bad_words = self._encode_bad_words(request.bad_words, between) if request.bad_words else ()
        with refuse_failures(kind, "the tokenizer"):
            text = request.text if kind == "text" else self._templates.render(request.chat)
            ids = self._text.encode(text, _wanted(request, kind), between)
            tokens = self._spell(ids, between) if request.want_tokens else ()
            in_slab = request.HasField("slab") and self._slabs.write(request.slab, ids)
            return tokenizer_pb2.EncodeResponse(
                count=len(ids),
                in_slab=in_slab,
                ids=b"" if in_slab else ids.tobytes(),
                text=text if request.want_text and kind == "chat" else "",
                tokens=tokens,
                bad_words=bad_words,
            )

    def _encode_bad_words(
        self, words: Sequence[str], between: Between
    ) -> list[generation_pb2.TokenIds]:
        """The sequences that words are written with."""
        with refuse_failures("sampling.bad_words", "the tokenizer"):
            found = spellings(self._text.whole, words, between)
            return [generation_pb2.TokenIds(ids=ids) for ids in found]

    def _spell(self, ids: array[int], between: Between) -> list[bytes]:
        """The bytes of each token."""
        tokens: list[bytes] = []
        for begin in range(0, len(ids), PIECE_CHARACTERS):
            between()
            tokens.extend(map(self._token_bytes.of, ids[begin : begin + PIECE_CHARACTERS]))
        return tokens


def _wanted(request: tokenizer_pb2.EncodeRequest, kind: str) -> Wanted:
    special = kind == "text"
    if request.HasField("add_special_tokens"):
        special = request.add_special_tokens
    return Wanted(kind, special, most=request.most_ids, last=request.truncate_ids)
