"""Turn a step's logits into tokens and log-probabilities, each row as its request asks.

For a row, in this order: log-probabilities are read off the raw logits; logit bias is added, which
is -inf where a token would complete a bad sequence; the repetition penalty, then frequency and
presence penalties are applied; stop ids are forbidden while the output is shorter than
`min_tokens`; temperature 0 takes the likeliest token; otherwise temperature, top-k, top-p, min-p
and the draw of `kernels.philox`. Equally likely tokens rank by id, lowest first. A forbidden token
is drawn only where all are: then it is id 0. Invariants: a row's token depends on nothing but its
own logits and `SampleInput`, and a row pays for its own options alone: a greedy row costs one pass
over its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.cpu import sampling
from kernels.cpu.filters import Filters
from kernels.cpu.logits import Alternatives, add_bias, log_probabilities, penalise
from kernels.philox import Counters
from model_svc.sampling.params import Logits, SampleInput
from protos.token_frame import ALTERNATIVE

Records = npt.NDArray[np.void]

_CHUNK_LOGITS = 2**22  # drawn from at a time, so that the copies stay at 16 MiB
_SEED_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of a step.

    Attributes:
        tokens: [rows] int32.
        logprobs: [rows] float32, of the raw logits; NaN where not asked for.
        alternatives: for each row records of `ALTERNATIVE`, likeliest first; none where not asked.
    """

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    alternatives: tuple[Records, ...]


def argmax(logits: torch.Tensor) -> npt.NDArray[np.intp]:
    """The id of each row's largest logit, the lowest among equals; NaN is less than any."""
    return sampling.argmax(_as_floats(logits))


class Sampler:
    """Draws tokens from logits; keeps nothing between calls.

    Args:
        vocab_size: how many logits a row has.
        argmax: finds the likeliest tokens, as `argmax` of this module does.
    """

    def __init__(
        self,
        vocab_size: int,
        argmax: Callable[[torch.Tensor], npt.NDArray[np.intp]] = argmax,
    ) -> None:
        self._vocab_size = vocab_size
        self._argmax = argmax
        self._chunk_rows = max(1, _CHUNK_LOGITS // vocab_size)

    def draw(self, logits: torch.Tensor, draws: Sequence[SampleInput]) -> Drawn:
        """Sample the next token of every row.

        Args:
            logits: [rows, vocab], floating, raw; left as they are.
            draws: one for each row.

        Raises:
            ValueError: the shape of `logits` is not that.
        """
        self._check(logits, len(draws))
        tokens = self._argmax(logits)
        if all(draw.spec.plain for draw in draws):
            none = np.empty(0, ALTERNATIVE)
            nan = np.full(len(draws), np.nan, np.float32)
            return Drawn(tokens.astype(np.int32), nan, (none,) * len(draws))
        raw = _as_floats(logits)
        edited = [i for i, draw in enumerate(draws) if draw.edits]
        changed = dict(zip(edited, raw[edited], strict=True))
        for i, row in changed.items():
            _edit(row, draws[i])
            tokens[i] = sampling.argmax(row[None])[0]
        random = [i for i, draw in enumerate(draws) if not draw.spec.greedy]
        for start in range(0, len(random), self._chunk_rows):
            chunk = random[start : start + self._chunk_rows]
            rows = raw[chunk]
            for place, i in enumerate(chunk):
                if i in changed:
                    rows[place] = changed[i]
            tokens[chunk] = _draw_random(rows, [draws[i] for i in chunk])
        logprobs, alternatives = _logprobs(raw, tokens, draws)
        return Drawn(tokens.astype(np.int32), logprobs, alternatives)

    def score(
        self, logits: torch.Tensor, tokens: npt.NDArray[np.int32], alternatives: int
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
        """Log-probabilities of given tokens, as for a prompt.

        Args:
            logits: [rows, vocab], floating, raw; left as they are.
            tokens: [rows], the token whose log-probability each row is asked for.
            alternatives: how many of the likeliest tokens to tell with each.

        Returns:
            [rows] float32, and for each row records of `ALTERNATIVE`, likeliest first.

        Raises:
            ValueError: the shape of `logits` is not that.
        """
        self._check(logits, len(tokens))
        raw = _as_floats(logits)
        logprobs, likely = log_probabilities(raw, tokens, [alternatives] * len(tokens))
        return logprobs, tuple(_records(likely))

    def _check(self, logits: torch.Tensor, rows: int) -> None:
        if logits.shape != (rows, self._vocab_size):
            raise ValueError(f"logits {tuple(logits.shape)}: expected [{rows}, {self._vocab_size}]")


def _as_floats(logits: torch.Tensor) -> Logits:
    array: Logits = logits.detach().to(torch.float32).contiguous().numpy()
    return array


def _edit(row: Logits, draw: SampleInput) -> None:
    spec = draw.spec
    ids, amounts = draw.bias
    if len(ids):
        add_bias(row, ids, amounts)
    if spec.needs_history:
        assert draw.history is not None  # rows with penalties have one
        penalise(
            row,
            *draw.history.occurrences(),
            spec.repetition_penalty,
            spec.presence_penalty,
            spec.frequency_penalty,
        )
    if spec.suppresses(draw.position):
        spec.suppress(row)


def _draw_random(rows: Logits, draws: Sequence[SampleInput]) -> npt.NDArray[np.intp]:
    specs = [draw.spec for draw in draws]
    return sampling.draw(
        rows,
        np.array([spec.temperature for spec in specs], np.float32),
        Counters(
            np.array([spec.seed & _SEED_MASK for spec in specs], np.uint64),
            np.array([draw.position for draw in draws], np.uint64),
            np.array([draw.candidate for draw in draws], np.uint64),
        ),
        Filters(
            np.array([spec.top_k for spec in specs], np.int64),
            np.array([spec.top_p for spec in specs], np.float64),
            np.array([spec.min_p for spec in specs], np.float64),
        ),
    )


def _logprobs(
    raw: Logits, tokens: npt.NDArray[np.intp], draws: Sequence[SampleInput]
) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
    logprobs = np.full(len(draws), np.nan, np.float32)
    alternatives = [np.empty(0, ALTERNATIVE)] * len(draws)
    asked = [(i, d.spec.logprobs) for i, d in enumerate(draws) if d.spec.logprobs is not None]
    rows = [i for i, _ in asked]
    if rows:
        logprobs[rows], likely = log_probabilities(raw[rows], tokens[rows], [n for _, n in asked])
        for i, records in zip(rows, _records(likely), strict=True):
            alternatives[i] = records
    return logprobs, tuple(alternatives)


def _records(likely: Iterable[Alternatives]) -> Iterable[Records]:
    return (alternative_records(ids, logprobs) for ids, logprobs in likely)


def alternative_records(ids: npt.NDArray[np.integer], logprobs: Logits) -> Records:
    """Tokens and their log-probabilities as records of `ALTERNATIVE`; [alternatives] each."""
    records = np.empty(len(ids), ALTERNATIVE)
    records["token"], records["logprob"] = ids, logprobs
    return records
