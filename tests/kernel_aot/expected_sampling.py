"""What the machine code of sampling must be like."""

from __future__ import annotations

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.triton.sampling.batch import Choices, Edits, Ragged, Uses
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.log_probabilities import LogProbabilities, Partials, log_probabilities
from kernels.triton.sampling.logits import note_tokens
from kernels.triton.sampling.scratch import Scratch

_ROWS = 64
_VOCAB = 151_936

# Three programs of 256 threads at least share an SM's registers, so that one computes while the
# others' loads are under way; a row's own kernels have an SM for themselves.
_SCAN = {"_scan_kernel": Needs(80, wide_loads=2), "_finish_kernel": Needs(128)}
_FILTERS = {"_bracket_kernel": Needs(128), "_collect_kernel": Needs(80, wide_loads=2)}
_TALLY = {"_tally_kernel": Needs(80, wide_loads=2)}
_EDIT = {"_edit_kernel": Needs(128)}


def _numbers(dtype: torch.dtype, count: int = _ROWS) -> torch.Tensor:
    return meta(count, dtype=dtype)


def _choices() -> Choices:
    words = (_numbers(torch.int64) for _ in range(4))
    return Choices(
        _numbers(torch.float32), *words, _numbers(torch.float64), _numbers(torch.float32)
    )


def _ragged(dtype: torch.dtype | None) -> Ragged:
    return Ragged(
        _numbers(torch.int64),
        _numbers(torch.int32),
        _numbers(torch.int32, 10_000),
        None if dtype is None else _numbers(dtype, 10_000),
    )


def _edits() -> Edits:
    penalties = (_numbers(torch.float32) for _ in range(3))
    return Edits(
        _ragged(torch.float32),
        _ragged(torch.int32),
        *penalties,
        _ragged(None),
        _numbers(torch.int64),
    )


def _draw(
    uses: Uses,
    edits: bool = False,
    vocab_size: int = _VOCAB,
    dtype: torch.dtype = torch.float32,
) -> None:
    draw(
        meta(_ROWS, vocab_size, dtype=dtype),
        _choices(),
        _edits() if edits else None,
        uses,
        Scratch.allocate(_ROWS, vocab_size, "meta"),
        _numbers(torch.int32),
    )


def _log_probabilities(dtype: torch.dtype) -> None:
    log_probabilities(
        meta(_ROWS, _VOCAB, dtype=dtype),
        _numbers(torch.int32),
        _numbers(torch.int32),
        Partials.allocate(_ROWS, _VOCAB, "meta"),
        LogProbabilities.allocate(_ROWS, "meta"),
    )


def _narrow(wide: dict[str, Needs]) -> dict[str, Needs]:
    """The same registers, and no promise of wide loads."""
    return {name: Needs(needs.registers) for name, needs in wide.items()}


EXPECTED = [
    Expected("sampling, no filters", lambda: _draw(Uses(False, False)), _SCAN),
    Expected("sampling, small top-k", lambda: _draw(Uses(True, False)), {**_SCAN, **_FILTERS}),
    Expected(
        "sampling, all filters and edits",
        lambda: _draw(Uses(), edits=True),
        {**_SCAN, **_FILTERS, **_TALLY, **_EDIT},
        elsewhere=True,
    ),
    Expected(
        "sampling bfloat16, edits",
        lambda: _draw(Uses(), edits=True, dtype=torch.bfloat16),
        _narrow({**_SCAN, **_FILTERS, **_TALLY, **_EDIT}),
    ),
    *(
        Expected(
            f"sampling of {vocab_size}",
            lambda vocab_size=vocab_size: _draw(Uses(), vocab_size=vocab_size),
            _narrow({**_SCAN, **_FILTERS, **_TALLY}),
        )
        for vocab_size in (1000, 49_155, 262_144)
    ),
    *(
        Expected(
            f"log_probabilities {str(dtype).removeprefix('torch.')}",
            lambda dtype=dtype: _log_probabilities(dtype),
            {"_read_kernel": Needs(64, wide_loads=1), "_tell_kernel": Needs(128)},
            elsewhere=dtype == torch.float32,
        )
        for dtype in (torch.float32, torch.bfloat16)
    ),
    Expected(
        "note_tokens",
        lambda: note_tokens(_numbers(torch.int32), _ragged(torch.int32)),
        {"_note_kernel": Needs(64)},
        elsewhere=True,
    ),
]
