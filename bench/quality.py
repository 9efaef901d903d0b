"""Cost of quantisation for the bundled model: the loss on text that it was not trained on.

`python -m bench.quality` scores the held-out files of the model's card in each form, through the
decoder that serves, and writes bench/results/quality.md. The text is of the Python that the model's
card names. Invariant: all forms score the same tokens in the same steps.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from bench.machine import describe
from kernels.c.library import load_library
from kernels.formats import KV_FORMATS, WEIGHT_FORMATS
from kernels.select import operations_for
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import Checkpoint, open_checkpoint
from model_svc.weights.loader import load_weights
from tools.demo_model.corpus import build_corpus, standard_library
from tools.demo_model.vocabulary import bytes_per_token, encode_documents
from tools.demo_model.windows import validation_windows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "quality.md"
WINDOW = 512
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Form:
    """Form in which a model is computed."""

    dtype: torch.dtype
    quantize: str = "none"
    kv_dtype: str = "auto"

    @property
    def name(self) -> str:
        """Name on the page."""
        parts = [] if self.quantize == "none" else [self.quantize]
        parts.append(str(self.dtype).removeprefix("torch."))
        return ", ".join(parts + [f"KV {self.kv_dtype}"] * (self.kv_dtype != "auto"))


FORMS = (
    Form(torch.float32),
    Form(torch.bfloat16),
    *(Form(torch.bfloat16, name) for name in WEIGHT_FORMATS if name != "none"),
    Form(torch.bfloat16, kv_dtype="int8"),
    Form(torch.bfloat16, "int4", "int8"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """Text to score: windows of tokens, and the tokens that follow each."""

    inputs: torch.Tensor
    targets: torch.Tensor
    """Both [windows, length] int64."""
    target_bytes: int
    """Bytes of text that the targets stand for."""


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one form on a text."""

    nats_per_token: float
    bits_per_byte: float
    likeliest: torch.Tensor
    """[windows, length], the token that it finds likeliest at each place."""


def held_out(checkpoint: Checkpoint, length: int) -> Text:
    """The files that the bundled model was not trained on, in windows."""
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    stream = encode_documents(tokenizer, build_corpus(standard_library()).validation)
    inputs, targets = validation_windows(stream, length)
    return Text(inputs, targets, int(bytes_per_token(tokenizer)[targets.numpy()].sum()))


def score(checkpoint: Checkpoint, form: Form, text: Text) -> Score:
    """Compute the text in one form, each window without what came before it."""
    weight_format = WEIGHT_FORMATS[form.quantize]
    ops = operations_for("cpu", form.dtype, weight_format, KV_FORMATS[form.kv_dtype])
    weights = load_weights(checkpoint, ops, form.dtype)
    decoder = Decoder(checkpoint.spec, weights, ops, form.dtype)
    length = text.inputs.shape[1]
    table = np.arange(WINDOWS_AT_ONCE * length, dtype=np.int32).reshape(WINDOWS_AT_ONCE, length)
    kept = form.dtype if form.kv_dtype == "auto" else torch.int8
    kv = KvCache(checkpoint.spec, table.size, kept)
    nats, likeliest = 0.0, []
    batches = (torch.split(windows, WINDOWS_AT_ONCE) for windows in (text.inputs, text.targets))
    for inputs, targets in zip(*batches, strict=True):
        count = len(inputs)
        starts, counts = np.zeros(count, np.int64), np.full(count, length)
        batch = Batch.build(inputs.flatten().numpy(), np.arange(count), starts, counts, table)
        logits = decoder.logits(decoder.forward(batch, kv))
        nats += float(functional.cross_entropy(logits, targets.flatten(), reduction="sum"))
        likeliest.append(logits.argmax(dim=1).view(count, length))
    tokens = text.targets.numel()
    bits_per_byte = nats / math.log(2) / max(1, text.target_bytes)
    return Score(nats / tokens, bits_per_byte, torch.cat(likeliest))


def table(forms: Sequence[Form], scores: Sequence[Score]) -> Iterator[str]:
    """Rows of Markdown; the first form is what the others are compared with."""
    yield "| form | nats/token | cost | perplexity | bits/byte | same likeliest token |"
    yield "|---|---|---|---|---|---|"
    whole = scores[0]
    for form, own in zip(forms, scores, strict=True):
        same = (own.likeliest == whole.likeliest).double().mean().item()
        yield (
            f"| {form.name} | {own.nats_per_token:.4f} "
            f"| {own.nats_per_token - whole.nats_per_token:+.4f} "
            f"| {math.exp(own.nats_per_token):.3f} | {own.bits_per_byte:.4f} | {same:.1%} |"
        )


def page(rows: Sequence[str], text: Text) -> str:
    """The page of results."""
    library = load_library().library
    level = "PyTorch's operations" if library is None else f"compiled operations, {library.level}"
    python = ".".join(platform.python_version_tuple()[:2])
    lines = [
        "# What quantisation costs",
        "",
        f"{date.today()}, {describe()}, {level}; `python -m bench.quality`.",
        f"The bundled model on the held-out files of Python {python}'s standard library: "
        f"{text.targets.numel():,} tokens in windows of {text.inputs.shape[1]}.",
        "Costs and likeliest tokens are compared with float32.",
        "",
        *rows,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Score every form, print the table and keep the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.model)
    text = held_out(checkpoint, WINDOW)
    scores = []
    for form in FORMS:
        scores.append(score(checkpoint, form, text))
        print(f"{form.name}: {scores[-1].nats_per_token:.4f} nats/token", flush=True)
    content = page(list(table(FORMS, scores)), text)
    print(content)
    arguments.out.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
