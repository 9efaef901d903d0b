"""Cases of drawing tokens and of log-probabilities, over a vocabulary whose tokens are unlike.

Invariant: a draw's tokens are compared with the CPU's, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from bench.kernels.cases import peers
from bench.kernels.cases.case import OURS, Call, Case, Goal, Place, Trial
from kernels.cpu import logits as cpu_logits
from kernels.cpu import sampling as cpu_sampling
from kernels.cpu.filters import Filters
from kernels.philox import Counters
from kernels.triton.sampling.batch import Choices, Edits, Ragged, Uses
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.log_probabilities import LogProbabilities, Partials, log_probabilities
from kernels.triton.sampling.scratch import Scratch

_TEMPERATURE = 0.8
_ALTERNATIVES = 20
_PENALTIES = (1.1, 0.5, 0.25)  # repetition, presence, frequency
_GROUP = 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a batch, and the options of all its rows."""

    rows: int
    vocab: int
    top_k: int = 0
    top_p: float = 1.0
    history: int = 0
    """Tokens of each row's history; with any, rows have bias and suppressed tokens too."""


def _logits(sizes: Sizes, place: Place) -> torch.Tensor:
    """Ranks in a shuffled order, likelier than their neighbours by a power law, with noise."""
    ranks = 1 + place.shuffled(sizes.vocab)
    noise = place.normal(sizes.rows, sizes.vocab, dtype=torch.float32)
    return noise - 1.5 * ranks.float().log()


def _choices(sizes: Sizes, place: Place) -> Choices:
    def filled(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((sizes.rows,), value, dtype=dtype, device=place.device)

    return Choices(
        filled(_TEMPERATURE, torch.float32),
        place.integers(0, 2**62, sizes.rows, dtype=torch.int64),
        place.integers(0, 2**20, sizes.rows, dtype=torch.int64),
        filled(0, torch.int64),
        filled(sizes.top_k, torch.int64),
        filled(sizes.top_p, torch.float64),
        filled(-torch.inf, torch.float32),
    )


def _ragged(sizes: Sizes, count: int, amounts: torch.dtype | None, place: Place) -> Ragged:
    """`count` tokens of each row, none of them twice; amounts are 1 or 2."""
    rows = torch.arange(sizes.rows, device=place.device)
    order = place.shuffled(sizes.vocab)[:count]
    # Neighbouring rows differ, as requests do.
    ids = (order[None, :] + rows[:, None]) % sizes.vocab
    numbers = None
    if amounts is not None:
        numbers = place.integers(1, 3, sizes.rows * count, dtype=torch.int32).to(amounts)
    lengths = torch.full((sizes.rows,), count, dtype=torch.int32, device=place.device)
    return Ragged(rows * count, lengths, ids.int().flatten(), numbers)


def _edits(sizes: Sizes, place: Place) -> Edits | None:
    if not sizes.history:
        return None
    repetition, presence, frequency = (
        torch.full((sizes.rows,), amount, device=place.device) for amount in _PENALTIES
    )
    few = min(16, sizes.vocab // 4)
    return Edits(
        _ragged(sizes, few, torch.float32, place),
        _ragged(sizes, sizes.history, torch.int32, place),
        repetition,
        presence,
        frequency,
        _ragged(sizes, few, None, place),
        # More than any position: tokens are suppressed still.
        torch.full((sizes.rows,), 2**21, device=place.device),
    )


def _ours(logits: torch.Tensor, choices: Choices, edits: Edits | None, uses: Uses) -> Call:
    rows, vocab = logits.shape
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    scratch = Scratch.allocate(rows, vocab, logits.device)

    def call() -> torch.Tensor:
        draw(logits, choices, edits, uses, scratch, tokens)
        return tokens

    return call


def _cpu_tokens(logits: torch.Tensor, choices: Choices, edits: Edits | None) -> torch.Tensor:
    own = logits.cpu().numpy().copy()
    if edits is not None:
        for row, values in enumerate(own):
            _edit(values, edits, row)
    words = (each.cpu().numpy().astype(np.uint64) for each in choices[1:4])
    none = np.zeros(len(own), np.float64)
    filters = Filters(choices.top_k.cpu().numpy(), choices.top_p.cpu().numpy(), none)
    temperatures = choices.temperatures.cpu().numpy()
    return torch.from_numpy(cpu_sampling.draw(own, temperatures, Counters(*words), filters))


def _edit(values: cpu_logits.Row, edits: Edits, row: int) -> None:
    bias, added = _row(edits.bias, row)
    values[bias] += added
    history, counts = _row(edits.history, row)
    cpu_logits.penalise(values, history, counts.astype(np.int32), *_PENALTIES)
    values[_row(edits.suppressed, row)[0]] = -np.inf


def _row(ragged: Ragged, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and amounts of a row; where there are none, ids twice."""
    own = slice(int(ragged.starts[row]), int(ragged.starts[row] + ragged.lengths[row]))
    amounts = ragged.ids if ragged.amounts is None else ragged.amounts
    return ragged.ids[own].cpu().numpy().astype(np.intp), amounts[own].cpu().numpy()


def _sampling(sizes: Sizes, place: Place) -> Trial:
    logits, choices, edits = _logits(sizes, place), _choices(sizes, place), _edits(sizes, place)
    large = sizes.top_k > sizes.vocab // _GROUP
    tally = large or (sizes.top_p < 1 and not sizes.top_k)
    uses = Uses(bool(sizes.top_k or sizes.top_p < 1), tally)
    return Trial(
        {
            OURS: partial(_ours, logits, choices, edits, uses),
            "flashinfer": partial(
                peers.flashinfer_sampling, logits, _TEMPERATURE, sizes.top_k, sizes.top_p
            ),
        },
        lambda: _cpu_tokens(logits, choices, edits),
        logits.itemsize * logits.numel(),
    )


def _log_probabilities(sizes: Sizes, place: Place) -> Trial:
    logits = _logits(sizes, place)
    tokens = place.integers(0, sizes.vocab, sizes.rows, dtype=torch.int32)

    def prepare() -> Call:
        wanted = torch.full((sizes.rows,), _ALTERNATIVES, dtype=torch.int32, device=place.device)
        partials = Partials.allocate(sizes.rows, sizes.vocab, place.device)
        out = LogProbabilities.allocate(sizes.rows, place.device)

        def call() -> torch.Tensor:
            log_probabilities(logits, tokens, wanted, partials, out)
            return out.chosen

        return call

    return Trial(
        {OURS: prepare},
        lambda: logits.double().log_softmax(dim=1).gather(1, tokens.long()[:, None]).squeeze(1),
        logits.itemsize * logits.numel(),
    )


def _case(
    shape: str, sizes: Sizes, launches: tuple[str, ...], most_us: float | None = None
) -> Case:
    tiny = replace(sizes, rows=2, vocab=300, history=min(sizes.history, 9))
    by_vocab = {kernel: {"vocab": sizes.vocab} for kernel in ("sampling_tile", *launches)}
    return Case(
        "sampling",
        f"{sizes.rows} x {sizes.vocab:,}, {shape}",
        partial(_sampling, sizes),
        partial(_sampling, tiny),
        {**by_vocab, "sampling_row": {}},
        Goal(most_us=most_us),
        tolerance=0.0,
        peers=("flashinfer",) if sizes.top_k and not sizes.history else (),
        drawn=True,
    )


_BATCH = Sizes(64, 151_936)

CASES = (
    _case("temperature", _BATCH, ()),
    _case("top-k 50, top-p 0.9", replace(_BATCH, top_k=50, top_p=0.9), (), 40.0),
    _case("top-p 0.9", replace(_BATCH, top_p=0.9), (), 40.0),
    _case(
        "top-p 0.9, bias, penalties, suppressed tokens",
        replace(_BATCH, top_p=0.9, history=2000),
        ("edit_logits",),
    ),
    Case(
        "log_probabilities",
        f"{_BATCH.rows} x {_BATCH.vocab:,}, {_ALTERNATIVES} alternatives",
        partial(_log_probabilities, _BATCH),
        partial(_log_probabilities, Sizes(2, 300)),
        {"log_probabilities": {"vocab": _BATCH.vocab}},
        tolerance=1e-5,
    ),
)
