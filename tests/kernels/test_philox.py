from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.philox import (
    BOUND_MARGIN,
    GUMBEL_MAX,
    Counters,
    gumbel,
    gumbel_bound,
    philox4x32,
    row_words,
    token_words,
)
from kernels.reference import sampling as sampling_reference
from kernels.reference.sampling import Choice

ONES = 0xFFFFFFFF
# The vectors published with Random123 for philox4x32 with ten rounds: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
EXTREMES = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 3, 2**32 - 2, 2**32 - 1], np.uint32)
BIG = 2**32 - 1


def counters(*rows: tuple[int, int, int]) -> Counters:
    seeds, positions, candidates = (
        np.array(column, np.uint64) for column in zip(*rows, strict=True)
    )
    return Counters(seeds, positions, candidates)


def many_words() -> np.ndarray:
    return np.concatenate(
        [EXTREMES, np.random.default_rng(0).integers(0, 2**32, 20000, np.uint64).astype(np.uint32)]
    )


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter: tuple, key: tuple, words: tuple) -> None:
    wide = [np.array([value], np.uint64) for value in (*counter, *key)]
    found = philox4x32(tuple(wide[:4]), tuple(wide[4:]))
    assert tuple(int(word[0]) for word in found) == words
    assert tuple(sampling_reference.philox4x32(counter, key)) == words


def test_philox_of_a_batch_is_that_of_each_row() -> None:
    columns = zip(*(counter + key for counter, key, _ in KNOWN_ANSWERS), strict=True)
    wide = [np.array(column, np.uint64) for column in columns]
    found = np.stack(philox4x32(tuple(wide[:4]), tuple(wide[4:])), axis=1)
    assert found.tolist() == [list(words) for _, _, words in KNOWN_ANSWERS]


@pytest.mark.parametrize("vocab_size", [1, 3, 4, 5, 97, 40001])
def test_a_token_has_the_word_of_its_own_counter_and_lane(vocab_size: int) -> None:
    rows = [(2**64 - 1, BIG, 15), (0x0123456789ABCDEF, 7, 0)]
    words = row_words(counters(*rows), vocab_size)
    assert words.shape == (2, vocab_size)
    for row, (seed, position, candidate) in enumerate(rows):
        choice = Choice(seed, position, candidate)
        for token in {0, 1, 2, 3, vocab_size // 2, vocab_size - 2, vocab_size - 1}:
            if 0 <= token < vocab_size:
                assert words[row, token] == sampling_reference.word(choice, token)


def test_a_word_alone_is_the_word_within_its_row() -> None:
    rows = counters((5, 1, 0), (5, 2, 0), (2**63 + 9, 1, 3))
    owners = np.array([2, 0, 1, 1, 0, 2, 2])
    ids = np.array([0, 1, 2, 3, 98, 57, 98])
    words = row_words(rows, 99)
    assert token_words(rows.take(owners), ids).tolist() == words[owners, ids].tolist()


@pytest.mark.parametrize(
    "other", [(2, 3, 1), (1 + 2**32, 3, 1), (1, 4, 1), (1, 3, 2), (1, 1, 3), (3, 3, 1)]
)
def test_seed_position_and_candidate_each_change_the_words(other: tuple[int, int, int]) -> None:
    words = row_words(counters((1, 3, 1), other), 64)
    assert (words[0] != words[1]).sum() >= 63


def test_gumbel_is_minus_log_of_minus_log() -> None:
    words = many_words()
    uniform = [(int(word) + 0.5) / 2**32 for word in words]
    assert min(uniform) > 0.0
    assert max(uniform) < 1.0
    expected = [-math.log(-math.log(value)) for value in uniform]
    # Next to 1 the library's logarithm of a logarithm has lost no more than this.
    np.testing.assert_allclose(gumbel(words), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        (0, "-0x1.90a3aa15a0b5dp+1"),
        (1, "-0x1.8a56cb66869f4p+1"),
        (2**31, "0x1.774f29c39c0bdp-2"),
        (0xDEADBEEF, "0x1.f8564bfa1e55dp+0"),
        (2**32 - 1, "0x1.6dfb516f1cbbep+4"),
    ],
)
def test_gumbel_has_fixed_bits(word: int, bits: str) -> None:
    assert float(gumbel(np.array([word], np.uint32))[0]).hex() == bits


def test_gumbel_rises_with_the_word_and_stays_below_its_maximum() -> None:
    noise = gumbel(np.sort(many_words()))
    assert (np.diff(noise) >= 0).all()
    assert GUMBEL_MAX - 1e-9 < noise[-1] < GUMBEL_MAX


def test_the_bound_is_never_below_the_noise_and_tight_at_the_top() -> None:
    words = many_words()
    excess = gumbel_bound(words) - gumbel(words)
    assert (excess > BOUND_MARGIN / 2).all()
    assert (excess[words > 0.99 * 2**32] < 0.01).all()


def test_the_noise_has_the_mean_and_variance_of_a_gumbel_variable() -> None:
    noise = gumbel(row_words(counters((11, 0, 0)), 200_000)[0])
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.03
