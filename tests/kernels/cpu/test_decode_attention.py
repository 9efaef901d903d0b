"""Sequences are put into blocks with bounded padding and bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernels.cpu.decode_attention import split_lengths

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=70).map(
    lambda lengths: sorted(lengths, reverse=True)
)


@given(lengths=LENGTHS, waste=st.integers(0, 4000), most=st.integers(1, 20_000))
def test_runs_cover_all_with_bounded_padding_and_size(
    lengths: list[int], waste: int, most: int
) -> None:
    runs = list(split_lengths(lengths, waste, most))

    assert [index for start, stop in runs for index in range(start, stop)] == list(
        range(len(lengths))
    )
    for start, stop in runs:
        padded = lengths[start] * (stop - start)
        assert padded - sum(lengths[start:stop]) <= waste
        assert padded <= most or stop - start == 1


def test_equal_lengths_share_a_block() -> None:
    assert list(split_lengths([180] * 64, waste=0, most_tokens=64 * 180)) == [(0, 64)]


def test_a_far_longer_sequence_gets_a_block_of_its_own() -> None:
    assert list(split_lengths([4000, 90, 80], waste=1000, most_tokens=10**6)) == [(0, 1), (1, 3)]
