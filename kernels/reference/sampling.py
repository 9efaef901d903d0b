"""Draw a token from one row of logits, step by step: the oracle of every faster sampler.

Clear, not fast. Invariant: a faster sampler gives the same token for the same row, bit for bit;
what it must share are the exactly rounded functions of `kernels.portable_math`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.philox import gumbel
from kernels.portable_math import fixed_exp, log

Row = npt.NDArray[np.float32]

_WORD = 2**32


@dataclass(frozen=True, slots=True)
class Choice:
    """Parameters of one row's draw, and the tokens that it may draw.

    A temperature below float32's smallest normal number counts as 0.
    """

    seed: int
    position: int
    candidate: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 of one counter of four words under a key of two.

    Source: Salmon et al. 2011, section 3.3.
    """
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(c[0] * 0xD2511F53, _WORD)
        high1, low1 = divmod(c[2] * 0xCD9E8D57, _WORD)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % _WORD, (k[1] + 0xBB67AE85) % _WORD]
    return c


def word(choice: Choice, token: int) -> int:
    """The random word of one token, as `kernels.philox` lays it down."""
    counter = (choice.position, choice.candidate, token // 4, 0)
    return philox4x32(counter, (choice.seed % _WORD, choice.seed // _WORD))[token % 4]


def adjust(
    row: Row,
    bias: Mapping[int, float],
    prompt: Iterable[int],
    output: Sequence[int],
    penalties: tuple[float, float, float],
) -> Row:
    """Add the bias, then apply the penalties; in float32, one token after the other.

    A finite logit stays finite, but where its bias is -inf; any other stays as it is.

    Args:
        row: [vocab] float32 logits.
        bias: what to add to the logit of some ids.
        prompt, output: ids so far.
        penalties: repetition, presence, frequency.
    """
    result = row.copy()
    repetition, presence, frequency = (np.float32(penalty) for penalty in penalties)
    with np.errstate(over="ignore", invalid="ignore"):
        for token, amount in bias.items():
            value = result[token] + np.float32(amount)
            finite = np.isfinite(result[token]) and np.isfinite(amount)
            result[token] = saturated(value) if finite else value
        for token in {*prompt, *output}:
            value = result[token]
            if not np.isfinite(value):
                continue
            value = value / repetition if value > 0 else value * repetition
            value -= saturated(frequency * np.float32(list(output).count(token)))
            result[token] = saturated(value - presence * np.float32(token in output))
    return result


def saturated(value: np.float32) -> np.float32:
    """The nearest finite number."""
    most = np.finfo(np.float32).max
    result: np.float32 = np.clip(value, -most, most)
    return result


def kept(scaled: Row, choice: Choice) -> list[int]:
    """The ids that top-k, then top-p, then min-p leave, likeliest first, then lowest id."""
    ids = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))
    ids = ids[: choice.top_k or None]
    if choice.top_p < 1.0:
        weights = [int(weight) for weight in fixed_exp(scaled[ids])]
        wanted = choice.top_p * sum(weights)
        mass = 0
        for count, weight in enumerate(weights, start=1):
            mass += weight
            if mass >= wanted:
                ids = ids[:count]
                break
    if choice.min_p > 0.0:
        floor = np.float32(log(np.array([choice.min_p]))[0])
        ids = [token for token in ids if scaled[token] >= floor]
    return ids


def draw(row: Row, choice: Choice) -> int:
    """The token drawn from `row` [vocab], float32 with bias and penalties applied.

    NaN counts as -inf; where there is +inf only such tokens can be drawn, all equally likely; a
    row with nothing else gives id 0.
    """
    row = np.where(np.isnan(row), np.float32(-np.inf), row)
    if row.max() == np.inf:
        row = np.where(row == np.inf, np.float32(0), np.float32(-np.inf))
    if row.max() == -np.inf:
        return 0
    if choice.temperature < np.finfo(np.float32).tiny:
        return int(row.argmax())
    with np.errstate(over="ignore"):
        scaled = (row - row.max()) / np.float32(choice.temperature)
    ids = sorted(kept(scaled, choice))
    words = np.array([word(choice, token) for token in ids], np.uint32)
    return ids[int((scaled[ids] + gumbel(words)).argmax())]
