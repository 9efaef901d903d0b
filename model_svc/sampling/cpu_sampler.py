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

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.cpu import sampling
from kernels.cpu.filters import Filters
from kernels.cpu.logits import Alternatives, add_bias, log_probabilities, penalise
from kernels.philox import Counters
from model_svc.sampling.draws import NOT_ASKED, Draws
from model_svc.sampling.params import Logits, SampleInput
from protos.token_frame import ALTERNATIVE

Records = npt.NDArray[np.void]

_CHUNK_LOGITS = 2**22  # drawn from at a time, so that the copies stay at 16 MiB


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of a step.

    Attributes:
        tokens: [rows] int32.
        logprobs: [rows] float32, of the raw logits; NaN where not asked for.
        alternatives: for each row records of `ALTERNATIVE`, likeliest first; none where not asked,
            and empty where no row asks for its log-probability.
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

    def draw(self, logits: torch.Tensor, draws: Draws) -> Drawn:
        """Sample the next token of every row.

        Args:
            logits: [rows, vocab], floating, raw; left as they are.
            draws: one for each row.

        Raises:
            ValueError: the shape of `logits` is not that.
        """
        self._check(logits, len(draws))
        tokens = self._argmax(logits)
        if draws.plain:
            return Drawn(tokens.astype(np.int32), np.full(len(draws), np.nan, np.float32), ())
        raw = _as_floats(logits)
        changed = dict(zip(draws.edited, raw[list(draws.edited)], strict=True))
        for i, row in changed.items():
            _edit(row, draws.edited[i])
            tokens[i] = sampling.argmax(row[None])[0]
        random = np.flatnonzero(~draws.choices["greedy"])
        for start in range(0, len(random), self._chunk_rows):
            chunk = random[start : start + self._chunk_rows]
            rows = raw[chunk]
            for place, i in enumerate(chunk.tolist()):
                if i in changed:
                    rows[place] = changed[i]
            tokens[chunk] = _draw_random(rows, draws.choices[chunk])
        logprobs, alternatives = _logprobs(raw, tokens, draws.choices["alternatives"])
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


def _draw_random(rows: Logits, choices: Records) -> npt.NDArray[np.intp]:
    return sampling.draw(
        rows,
        choices["temperature"],
        Counters(
            choices["seed"],
            choices["position"].astype(np.uint64),
            choices["candidate"].astype(np.uint64),
        ),
        Filters(choices["top_k"], choices["top_p"], choices["min_p"]),
    )


def _logprobs(
    raw: Logits, tokens: npt.NDArray[np.intp], asked: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
    logprobs = np.full(len(asked), np.nan, np.float32)
    rows = np.flatnonzero(asked != NOT_ASKED)
    if not len(rows):
        return logprobs, ()
    alternatives = [np.empty(0, ALTERNATIVE)] * len(asked)
    logprobs[rows], likely = log_probabilities(raw[rows], tokens[rows], asked[rows].tolist())
    for i, records in zip(rows.tolist(), _records(likely), strict=True):
        alternatives[i] = records
    return logprobs, tuple(alternatives)


def _records(likely: Iterable[Alternatives]) -> Iterable[Records]:
    return (alternative_records(ids, logprobs) for ids, logprobs in likely)


def alternative_records(ids: npt.NDArray[np.integer], logprobs: Logits) -> Records:
    """Tokens and their log-probabilities as records of `ALTERNATIVE`; [alternatives] each."""
    records = np.empty(len(ids), ALTERNATIVE)
    records["token"], records["logprob"] = ids, logprobs
    return records
