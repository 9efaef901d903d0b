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
from model_svc.sampling.draws import NOT_ASKED, Draws
from model_svc.sampling.params import SamplingParams

_PLAIN = SamplingParams(seed=0, temperature=0.0)
_NO_ROWS = np.empty(0, np.int32)
_NO_BIAS = _PLAIN.bias


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

    def draw(self, logits: torch.Tensor, draws: Draws) -> Drawn:
        """See `Sampler.draw`."""
        self._check(logits, len(draws))
        if not draws:
            return Drawn(_NO_ROWS, np.empty(0, np.float32), ())
        if len(draws) > self._scratch.rows:
            rows = 1 << (len(draws) - 1).bit_length()
            self._scratch = Scratch.allocate(rows, self._vocab_size, self._device)
        choices, uses = self._choices(draws.choices)
        edits = self._edits(draws) if draws.edited else None
        tokens = torch.empty(len(draws), dtype=torch.int32, device=self._device)
        draw(logits, choices, edits, uses, self._scratch, tokens)
        logprobs, alternatives = self._read(logits, tokens, draws.choices["alternatives"])
        return Drawn(tokens.cpu().numpy(), logprobs, alternatives)

    def score(
        self, logits: torch.Tensor, tokens: npt.NDArray[np.int32], alternatives: int
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
        """See `Sampler.score`."""
        self._check(logits, len(tokens))
        chosen = self._array(tokens.astype(np.int32))
        return self._read(logits, chosen, np.full(len(tokens), alternatives, np.int32))

    def _check(self, logits: torch.Tensor, rows: int) -> None:
        if logits.shape != (rows, self._vocab_size):
            raise ValueError(f"logits {tuple(logits.shape)}: expected [{rows}, {self._vocab_size}]")

    def _array(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _choices(self, draws: Records) -> tuple[Choices, Uses]:
        top_k, top_p, min_p = draws["top_k"], draws["top_p"], draws["min_p"]
        choices = Choices(
            temperatures=self._array(draws["temperature"]),
            seeds=self._array(draws["seed"].view(np.int64)),
            positions=self._array(draws["position"]),
            candidates=self._array(draws["candidate"]),
            top_k=self._array(top_k),
            top_p=self._array(top_p),
            floors=self._array(floors(min_p)),
        )
        return choices, Uses.by(top_k, top_p, min_p, self._vocab_size)

    def _edits(self, draws: Draws) -> Edits:
        inputs = [draws.edited.get(number) for number in range(len(draws))]
        specs = [_PLAIN if one is None else one.spec for one in inputs]
        bias = [_NO_BIAS if one is None else one.bias for one in inputs]
        seen = [
            (_NO_ROWS, _NO_ROWS)
            if one is None or one.history is None
            else one.history.occurrences()
            for one in inputs
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
        self, logits: torch.Tensor, tokens: torch.Tensor, asked: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
        """Log-probabilities of `tokens`, with as many alternatives as each row is `asked` for."""
        rows = len(asked)
        if (asked == NOT_ASKED).all():
            return np.full(rows, np.nan, np.float32), ()
        if rows > self._partials.tops.shape[0]:
            self._partials = Partials.allocate(rows, self._vocab_size, self._device)
        told = LogProbabilities.allocate(rows, self._device)
        log_probabilities(logits, tokens, self._array(asked), self._partials, told)
        ids, likely = told.ids.cpu().numpy(), told.likely.cpu().numpy()
        counts = np.clip(asked, 0, min(ids.shape[1], self._vocab_size))
        records = (
            alternative_records(ids[row, :count], likely[row, :count])
            for row, count in enumerate(counts.tolist())
        )
        return told.chosen.cpu().numpy(), tuple(records)
