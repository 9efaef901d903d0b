"""Draws the tokens of a step where its logits lie, with the kernels of `kernels.triton.sampling`.

Importing it imports Triton. Invariant: tokens, and the ids of alternatives, are those of
`model_svc.sampling.cpu_sampler.Sampler`, bit for bit for equal logits; log-probabilities agree
to 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from kernels.triton.sampling.batch import Choices, Edits, Ragged, Uses, floors
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.log_probabilities import LogProbabilities, Partials, log_probabilities
from kernels.triton.sampling.scratch import Scratch
from model_svc.sampling.cpu_sampler import Drawn, Records, alternative_records
from model_svc.sampling.params import SampleInput, SamplingParams

_NOT_ASKED = -1
_PLAIN = SamplingParams(seed=0, temperature=0.0)
_NO_ROWS = np.empty(0, np.int32)


class DeviceSampler:
    """Draws tokens from logits; keeps only memory between calls.

    Args:
        vocab_size: how many logits a row has.
        device: where they lie.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._scratch = Scratch.allocate(1, vocab_size, device)
        self._partials = Partials.allocate(1, vocab_size, device)

    def draw(self, logits: torch.Tensor, draws: Sequence[SampleInput]) -> Drawn:
        """See `Sampler.draw`."""
        self._check(logits, len(draws))
        if not draws:
            return Drawn(_NO_ROWS, np.empty(0, np.float32), ())
        if len(draws) > self._scratch.rows:
            rows = 1 << (len(draws) - 1).bit_length()
            self._scratch = Scratch.allocate(rows, self._vocab_size, self._device)
        choices, uses = self._choices(draws)
        edits = self._edits(draws) if any(d.edits for d in draws) else None
        tokens = torch.empty(len(draws), dtype=torch.int32, device=self._device)
        draw(logits, choices, edits, uses, self._scratch, tokens)
        asked = [_NOT_ASKED if (n := d.spec.logprobs) is None else n for d in draws]
        logprobs, alternatives = self._read(logits, tokens, asked)
        return Drawn(tokens.cpu().numpy(), logprobs, alternatives)

    def score(
        self, logits: torch.Tensor, tokens: npt.NDArray[np.int32], alternatives: int
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
        """See `Sampler.score`."""
        self._check(logits, len(tokens))
        chosen = self._array(tokens.astype(np.int32))
        return self._read(logits, chosen, [alternatives] * len(tokens))

    def _check(self, logits: torch.Tensor, rows: int) -> None:
        if logits.shape != (rows, self._vocab_size):
            raise ValueError(f"logits {tuple(logits.shape)}: expected [{rows}, {self._vocab_size}]")

    def _array(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    def _choices(self, draws: Sequence[SampleInput]) -> tuple[Choices, Uses]:
        # A greedy row's filters leave the likeliest token in: it needs none of their passes.
        specs = [_PLAIN if draw.spec.greedy else draw.spec for draw in draws]
        top_k = np.array([spec.top_k for spec in specs], np.int64)
        top_p = np.array([spec.top_p for spec in specs], np.float64)
        min_p = np.array([spec.min_p for spec in specs], np.float64)
        seeds = np.array([spec.seed % 2**64 for spec in specs], np.uint64)
        choices = Choices(
            temperatures=self._array(np.array([spec.temperature for spec in specs], np.float32)),
            seeds=self._array(seeds.view(np.int64)),
            positions=self._array(np.array([draw.position for draw in draws], np.int64)),
            candidates=self._array(np.array([draw.candidate for draw in draws], np.int64)),
            top_k=self._array(top_k),
            top_p=self._array(top_p),
            floors=self._array(floors(min_p)),
        )
        return choices, Uses.by(top_k, top_p, min_p, self._vocab_size)

    def _edits(self, draws: Sequence[SampleInput]) -> Edits:
        specs = [draw.spec for draw in draws]
        bias = [draw.bias for draw in draws]
        seen = [
            (_NO_ROWS, _NO_ROWS) if draw.history is None else draw.history.occurrences()
            for draw in draws
        ]
        suppressed = [np.array(spec.suppressed_ids, np.int32) for spec in specs]
        return Edits(
            bias=self._ragged([ids for ids, _ in bias], [amounts for _, amounts in bias]),
            history=self._ragged([ids for ids, _ in seen], [counts for _, counts in seen]),
            repetition=self._numbers(spec.repetition_penalty for spec in specs),
            presence=self._numbers(spec.presence_penalty for spec in specs),
            frequency=self._numbers(spec.frequency_penalty for spec in specs),
            suppressed=self._ragged(suppressed, None),
            min_tokens=self._array(np.array([spec.min_tokens for spec in specs], np.int64)),
        )

    def _numbers(self, values: Iterable[float]) -> torch.Tensor:
        return self._array(np.fromiter(values, np.float32))

    def _ragged(
        self,
        lists: Sequence[npt.NDArray[np.integer]],
        amounts: Sequence[npt.NDArray[np.generic]] | None,
    ) -> Ragged:
        lengths = np.array([len(ids) for ids in lists], np.int32)
        return Ragged(
            starts=self._array(np.cumsum(lengths, dtype=np.int64) - lengths),
            lengths=self._array(lengths),
            ids=self._array(np.concatenate(lists).astype(np.int32)),
            amounts=None if amounts is None else self._array(np.concatenate(amounts)),
        )

    def _read(
        self, logits: torch.Tensor, tokens: torch.Tensor, asked: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
        """Log-probabilities of `tokens`, with as many alternatives as each row is `asked` for."""
        rows = len(asked)
        none = alternative_records(_NO_ROWS, np.empty(0, np.float32))
        if max(asked, default=_NOT_ASKED) == _NOT_ASKED:
            return np.full(rows, np.nan, np.float32), (none,) * rows
        if rows > self._partials.tops.shape[0]:
            self._partials = Partials.allocate(rows, self._vocab_size, self._device)
        told = LogProbabilities.allocate(rows, self._device)
        wanted = self._array(np.array(asked, np.int32))
        log_probabilities(logits, tokens, wanted, self._partials, told)
        ids, likely = told.ids.cpu().numpy(), told.likely.cpu().numpy()
        most = min(ids.shape[1], self._vocab_size)
        records = (
            alternative_records(ids[row, : min(count, most)], likely[row, : min(count, most)])
            if count > 0
            else none
            for row, count in enumerate(asked)
        )
        return told.chosen.cpu().numpy(), tuple(records)
