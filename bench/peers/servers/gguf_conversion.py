"""Conversion of a checkpoint with a tokenizer that llama.cpp's converter does not know.

`python -m bench.peers.servers.gguf_conversion SOURCE CHECKPOINT GGUF`. The converter identifies
tokenizers by a hash of their output for a sample text; ours is new, and splits like GPT-2's.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path


def main(source: str, checkpoint: str, out: str) -> None:
    """Convert `checkpoint` into the bf16 file `out` with the converter of a source tree."""
    folder = Path(source)
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    text_model = importlib.import_module("conversion.base").TextModel
    text_model.get_vocab_base_pre = lambda _self, _tokenizer: "gpt-2"
    # It would look for another kind of tokenizer first, with a package that is not needed.
    text_model._set_vocab_sentencepiece = text_model._set_vocab_gpt2
    script = folder / "convert_hf_to_gguf.py"
    sys.argv = [str(script), checkpoint, "--outfile", out, "--outtype", "bf16"]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
