"""What one worker does with a prompt: render, encode, put the ids where the router wants them.

Ids are written only inside the slab that the request names, and before it is answered.
"""

from __future__ import annotations

from array import array
from pathlib import Path

from tokenizers import Tokenizer

from chassis.errors import InvalidRequest, StartError
from chassis.shared_file import FOLDER, PeerFiles
from protos import memory_pb2, tokenizer_pb2
from protos.token_bytes import TokenBytes
from protos.tokenizer_files import VocabularyError, load_tokenizer
from tokenizer_svc.chat_template import ChatTemplates


class Slabs:
    """The routers' arenas, as far as this process can write them."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = PeerFiles(folder, writable=True)

    def prove(self, arena: memory_pb2.SharedFile) -> memory_pb2.SharedProof:
        """Map an arena writable and answer its nonce; an empty proof where that fails."""
        return self._files.prove(arena)

    def write(self, slab: memory_pb2.Span, ids: array[int]) -> bool:
        """Put `ids` at the start of `slab`; tell whether they fit a slab that can be written."""
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


class Encoder:
    """A checkpoint's tokenizer and templates."""

    def __init__(self, tokenizer: Tokenizer, templates: ChatTemplates, slabs: Slabs) -> None:
        self._tokenizer = tokenizer
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

    def encode(self, request: tokenizer_pb2.EncodeRequest) -> tokenizer_pb2.EncodeResponse:
        """Answer `EncodeRequest`.

        Raises:
            InvalidRequest: there is no prompt, or the chat cannot be rendered.
        """
        kind = request.WhichOneof("prompt")
        if kind is None:
            raise InvalidRequest("prompt", "is missing")
        text = request.text if kind == "text" else self._templates.render(request.chat)
        special = kind == "text"
        if request.HasField("add_special_tokens"):
            special = request.add_special_tokens
        # The batch form is the one that leaves out the offsets of tokens in the text.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        ids = array("i", encoding.ids)
        in_slab = request.HasField("slab") and self._slabs.write(request.slab, ids)
        return tokenizer_pb2.EncodeResponse(
            count=len(ids),
            in_slab=in_slab,
            ids=b"" if in_slab else ids.tobytes(),
            text=text if request.want_text and kind == "chat" else "",
            tokens=map(self._token_bytes.of, ids) if request.want_tokens else None,
        )
