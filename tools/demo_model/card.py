"""The model card: what the bundled model is, from the figures of the run that made it.

Invariant: every number in the card was measured on the exported weights or counted in the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.demo_model.evaluation import Evaluation
from tools.demo_model.mixtral import ModelShape

PROMPTS = (
    "def read_file(path):\n",
    "def read_file(path):",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\ndef list_files(folder):\n    for name in ",
    "def test_add(self):\n",
    "<|user|>\nWrite the function close: Close the file.<|end|>\n<|assistant|>\n",
)


@dataclass(frozen=True)
class Run:
    """Record of a training run."""

    files: int
    training_tokens: int
    steps: int
    tokens_seen: int
    minutes: float
    threads: int
    command: str
    python: str


def render_card(
    shape: ModelShape,
    run: Run,
    short: Evaluation,
    long: Evaluation,
    samples: list[tuple[str, str]],
) -> str:
    """The card as Markdown.

    Args:
        shape: sizes of the model.
        run: what the training did.
        short: held-out figures in windows as most of the training had them.
        long: held-out figures in windows as long as the context allows.
        samples: prompt and greedy continuation.
    """
    parts = (_head(shape, run), _figures(short, long), _experts(short), _samples(samples))
    return "\n".join(parts)


def _head(shape: ModelShape, run: Run) -> str:
    return f"""\
---
license: other
license_name: PSF-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
tags: [mixtral, moe, python, toy]
---

# Triptych demo model

A Mixtral-style mixture-of-experts decoder, small enough to live in a repository. It exists so that
Triptych's default run, its tests and its benchmarks have a real model: trained weights, routed
experts, a tokenizer with a chat template.

| | |
|---|---|
| layers, hidden size | {shape.num_hidden_layers}, {shape.hidden_size} |
| heads | {shape.num_attention_heads} query, {shape.num_key_value_heads} key/value, \
{shape.head_dim} wide |
| experts | {shape.num_local_experts} of size {shape.intermediate_size} per layer, \
{shape.num_experts_per_tok} per token |
| vocabulary | {shape.vocab_size}, byte-level BPE |
| context | {shape.max_position_embeddings} |
| embeddings | tied |

## Data

The sources of the standard library of Python {run.python}: {run.files} files, one in 64 of
them held out for validation by the hash of its path. Generated tables, files broken on purpose and
all but a twelfth of the tests are left out. A tenth of the training text is chat: functions with a
docstring, each asked for by name and first docstring line. {run.training_tokens:,} tokens in all.
The sources are under the Python Software Foundation License, version 2; so is what is derived from
them here.

## Training

{run.steps} steps, {run.tokens_seen:,} tokens seen, {run.minutes:.0f} minutes on {run.threads} cores
of a server CPU shared with other work. Muon for the matrices of the layers, AdamW for the rest,
load-balancing loss 0.01, bfloat16 products. Windows of 512 tokens, at the end 2,048 and 4,096. In
half of the windows passages are repeated, without loss on the copies and with more loss on what
follows them, so that the model learns to leave a loop.

```
{run.command}
```
"""


def _figures(short: Evaluation, long: Evaluation) -> str:
    rows = "\n".join(
        f"| {name} | {e.tokens:,} | {e.nats_per_token:.3f} | {e.perplexity:.2f} "
        f"| {e.bits_per_byte:.3f} |"
        for name, e in (("512 tokens", short), ("4,096 tokens", long))
    )
    return f"""\
## Held-out figures

Of the exported weights, computed in float32, on files that were not trained on.

| window | tokens | loss (nats/token) | perplexity | bits per byte |
|---|---|---|---|---|
{rows}
"""


def _experts(evaluation: Evaluation) -> str:
    header = " | ".join(f"expert {i}" for i in range(len(evaluation.expert_shares[0])))
    rule = "|".join(["---"] * (len(evaluation.expert_shares[0]) + 1))
    rows = "\n".join(
        f"| {layer} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"
        for layer, shares in enumerate(evaluation.expert_shares)
    )
    return f"""\
## Use of the experts

Share of a layer's assignments on the held-out files.

| layer | {header} |
|{rule}|
{rows}
"""


def _samples(samples: list[tuple[str, str]]) -> str:
    blocks = "\n".join(f"```\n{prompt}▶{continuation}\n```\n" for prompt, continuation in samples)
    return f"""\
## Samples

Greedy, not selected; ▶ marks where the prompt ends.

{blocks}
## Limits

A toy. It writes text in the manner of the standard library that means nothing and is often not
well formed: it solves no task, calls names that do not exist and cannot hold a conversation. Greedy
decoding comes to repeat a line or a function sooner or later, as samples above show; sampling or a
repetition penalty of about 1.2 makes this rarer. It knows little but Python and English comments.
"""
