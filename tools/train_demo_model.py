"""Trains the bundled model on the standard library's sources and writes it as a checkpoint folder.

Run from the repository root: `python -m tools.train_demo_model --minutes 70`. A run that was ended
(SIGTERM, Ctrl-C) goes on with `--resume`. Where other work shares the cores, set OMP_WAIT_POLICY to
PASSIVE, lest waiting threads starve it. Invariant: the learning rate and the window length depend
on the share of the budget that is used up and on nothing else, so every run ends annealed.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name the field knows it by)
from tokenizers import Tokenizer

from tools.demo_model.card import PROMPTS, Run, render_card
from tools.demo_model.checkpoint import export, replace_file
from tools.demo_model.corpus import build_corpus, standard_library
from tools.demo_model.evaluation import Evaluation, evaluate, greedy
from tools.demo_model.mixtral import Mixtral, ModelShape
from tools.demo_model.optimisers import Optimisers
from tools.demo_model.vocabulary import encode_documents, train_tokenizer
from tools.demo_model.windows import WindowSampler

# Window length in tokens, and the share of the budget up to which it is used.
PHASES = ((512, 0.96), (2048, 0.98), (4096, 1.0))
WARM_UP = 0.02
DECAY_FROM = 0.3
FINAL_RATE = 0.02
BALANCE_WEIGHT = 0.01
LARGEST_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    `steps` is a budget in place of minutes, `stuck` the share of windows that repeat themselves.
    """

    out: Path = Path("models/demo")
    scratch: Path = Path("build/demo-model")
    corpus: Path = field(default_factory=standard_library)
    minutes: float = 70.0
    steps: int | None = None
    seed: int = 0
    threads: int = 2
    stuck: float = 0.5
    tokens_per_step: int = 8192
    tokens_at_once: int = 4096
    log_every: int = 20
    export_minutes: float = 8.0
    resume: bool = False
    dtype: torch.dtype = torch.bfloat16


@dataclass
class Progress:
    """Progress of a run; saved with the weights."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    windows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """The tokenized corpus."""

    tokenizer: Tokenizer
    training: np.ndarray
    validation: np.ndarray
    files: int


def prepare_text(settings: Settings, vocab_size: int) -> Text:
    """Read the corpus, learn the tokenizer and encode both parts.

    Args:
        settings: names the corpus and the seed of the documents' order.
        vocab_size: entries of the tokenizer.
    """
    corpus = build_corpus(settings.corpus)
    tokenizer = train_tokenizer(corpus.training, vocab_size)
    documents = [*corpus.training, *corpus.chats]
    order = np.random.default_rng(settings.seed).permutation(len(documents))
    return Text(
        tokenizer,
        encode_documents(tokenizer, (documents[place] for place in order)),
        encode_documents(tokenizer, corpus.validation),
        corpus.files,
    )


def rate_scale(used: float) -> float:
    """Factor on the learning rates when a share `used` of the budget, 0 to 1, is gone."""
    if used < WARM_UP:
        return 0.05 + 0.95 * used / WARM_UP
    left = (1 - used) / (1 - DECAY_FROM)
    return min(1.0, FINAL_RATE + (1 - FINAL_RATE) * max(0.0, left))


class Trainer:
    """One training run: its weights, its optimisers and how far it is."""

    def __init__(self, settings: Settings, shape: ModelShape) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.text = prepare_text(settings, shape.vocab_size)
        self.model = Mixtral(shape)
        self.optimisers = Optimisers(self.model)
        self.progress = Progress()
        self._ended = False
        self._saved_at_s = 0.0
        context = shape.max_position_embeddings
        self._samplers = {
            length: WindowSampler(self.text.training, length, settings.seed, settings.stuck)
            for length in {min(length, context) for length, _ in PHASES}
        }
        if settings.resume:
            self._load()

    @property
    def used(self) -> float:
        """Share of the budget that is used up."""
        if self.settings.steps is not None:
            return min(1.0, self.progress.step / self.settings.steps)
        return min(1.0, self.progress.seconds / (60 * self.settings.minutes))

    def end(self, _signal: int, _frame: FrameType | None) -> None:
        """Stop after the current step; what a signal handler calls."""
        self._ended = True

    def run(self) -> bool:
        """Train until the budget is used up or `end` was called.

        Returns:
            Whether the budget was used up.
        """
        while self.used < 1 and not self._ended:
            began = time.monotonic()
            loss, norm = self.step()
            self.progress.seconds += time.monotonic() - began
            if self.progress.step % self.settings.log_every == 0:
                self._log(loss, norm)
            if self.progress.seconds - self._saved_at_s >= 60 * self.settings.export_minutes:
                self.save()
        return self.used >= 1

    def step(self) -> tuple[float, float]:
        """Train on one batch.

        Returns:
            Its loss in nats per token, and the gradient's norm before it was clipped.
        """
        context = self.model.shape.max_position_embeddings
        length = min(context, next(length for length, end in PHASES if self.used < end))
        windows = max(1, self.settings.tokens_per_step // length)
        first = self.progress.windows.get(str(length), 0)
        inputs, targets, weights = self._samplers[length].batch(first, windows)
        at_once = max(1, self.settings.tokens_at_once // length)
        batches = (torch.split(ids, at_once) for ids in (inputs, targets, weights))
        loss = 0.0
        for ids, wanted, weight in zip(*batches, strict=True):
            loss += self._backward(ids, wanted, weight, len(ids) / windows)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT_NORM)
        self.optimisers.step(rate_scale(self.used))
        self.progress.windows[str(length)] = first + windows
        self.progress.step += 1
        self.progress.tokens += inputs.numel()
        return loss, float(norm)

    def _backward(
        self, ids: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, share: float
    ) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.dtype == torch.bfloat16):
            hidden, balance, _ = self.model(ids)
            logits = self.model.logits(hidden)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        loss = (losses * weight.flatten()).sum() / weight.sum()
        (share * (loss + BALANCE_WEIGHT * balance)).backward()
        return share * float(loss.detach())

    def evaluate(self, length: int) -> Evaluation:
        """Held-out figures in windows of `length` tokens, or as many as context and text allow."""
        longest = min(self.model.shape.max_position_embeddings, len(self.text.validation) - 1)
        held_out = self.text.validation
        return evaluate(self.model, self.text.tokenizer, held_out, min(length, longest))

    def _log(self, loss: float, norm: float) -> None:
        speed = self.progress.tokens / self.progress.seconds
        print(
            f"step {self.progress.step}  {self.used:.1%}  loss {loss:.3f}  gradient {norm:.2f}  "
            f"{self.progress.tokens:,} tokens  {speed:.0f} tokens/s",
            flush=True,
        )

    def save(self) -> None:
        """Keep what `--resume` needs in the scratch folder, export the weights, and score them."""
        self._saved_at_s = self.progress.seconds
        self.settings.scratch.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "progress": asdict(self.progress),
        }
        replace_file(self.settings.scratch / "state.pt", lambda path: torch.save(state, path))
        export(self.model, self.text.tokenizer, self.settings.out, self.settings.dtype)
        figures = self.evaluate(PHASES[0][0])
        print(
            f"saved at step {self.progress.step}: "
            f"held out {figures.nats_per_token:.3f} nats/token, "
            f"{figures.bits_per_byte:.3f} bits/byte, "
            f"largest expert share {max(map(max, figures.expert_shares)):.1%}",
            flush=True,
        )

    def _load(self) -> None:
        state = torch.load(self.settings.scratch / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimisers.load_state_dict(state["optimisers"])
        self.progress = Progress(**state["progress"])
        self._saved_at_s = self.progress.seconds

    def finish(self) -> None:
        """Round the weights as they are on disk, score those, and write the card."""
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.copy_(weight.to(self.settings.dtype))
        self.save()
        short, long = (self.evaluate(length) for length in (PHASES[0][0], PHASES[-1][0]))
        longest = min(160, self.model.shape.max_position_embeddings)
        samples = [(p, greedy(self.model, self.text.tokenizer, p, longest)) for p in PROMPTS]
        steps = self.settings.steps
        budget = f"--minutes {self.settings.minutes:g}" if steps is None else f"--steps {steps}"
        run = Run(
            files=self.text.files,
            training_tokens=len(self.text.training),
            steps=self.progress.step,
            tokens_seen=self.progress.tokens,
            minutes=self.progress.seconds / 60,
            threads=self.settings.threads,
            command=f"python -m tools.train_demo_model {budget} --seed {self.settings.seed}",
            python=".".join(platform.python_version_tuple()[:2]),
        )
        card = render_card(self.model.shape, run, short, long, samples)
        (self.settings.out / "README.md").write_text(card, encoding="utf-8")


def parse_arguments(arguments: list[str]) -> Settings:
    """Settings from a command line."""
    parser = argparse.ArgumentParser(prog="tools.train_demo_model", description=__doc__)
    default = Settings()
    parser.add_argument("--out", type=Path, default=default.out)
    parser.add_argument("--scratch", type=Path, default=default.scratch)
    parser.add_argument("--corpus", type=Path, default=default.corpus)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=default.minutes)
    budget.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--log-every", type=int, default=default.log_every)
    parser.add_argument("--export-minutes", type=float, default=default.export_minutes)
    parser.add_argument("--resume", action="store_true")
    return Settings(**vars(parser.parse_args(arguments)))


def main() -> None:
    """Train as the command line says."""
    settings = parse_arguments(sys.argv[1:])
    torch.set_num_threads(settings.threads)
    trainer = Trainer(settings, ModelShape())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, trainer.end)
    if trainer.run():
        trainer.finish()
    else:
        trainer.save()
        print("ended early; --resume goes on from here", flush=True)


if __name__ == "__main__":
    main()
