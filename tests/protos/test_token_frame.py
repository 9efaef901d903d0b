"""A frame is read as it was written, and nothing else passes for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.token_frame import (
    ALTERNATIVE,
    ROW,
    FrameError,
    TokenFrame,
    frame_bytes,
    read_frame,
    write_frame,
)

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
F32 = st.floats(width=32)
ROWS = st.lists(st.tuples(U64, U32, U32, U32, F32, U16, U16, U32), max_size=8)
ALTERNATIVES = st.lists(st.tuples(U32, F32), max_size=8)


def make(rows: list[tuple[Any, ...]], alternatives: list[tuple[Any, ...]]) -> TokenFrame:
    return TokenFrame(np.array(rows, ROW), np.array(alternatives, ALTERNATIVE))


def written(frame: TokenFrame) -> bytes:
    target = bytearray(frame_bytes(len(frame.rows), len(frame.alternatives)))
    assert write_frame(frame, memoryview(target)) == len(target)
    return bytes(target)


ONE = make([(7 << 32 | 1, 2, 3, 4, -0.5, 1, 2, 2)], [(5, -1.5), (6, -2.5)])


@given(rows=ROWS, alternatives=ALTERNATIVES)
def test_a_frame_comes_back_as_it_was(
    rows: list[tuple[Any, ...]], alternatives: list[tuple[Any, ...]]
) -> None:
    frame = make(rows, alternatives)
    read = read_frame(written(frame))
    # Bytes, because NaN, which stands for no log-probability, equals nothing.
    assert read.rows.tobytes() == frame.rows.tobytes()
    assert read.alternatives.tobytes() == frame.alternatives.tobytes()


@given(rows=ROWS, alternatives=ALTERNATIVES, data=st.data())
def test_a_truncated_frame_is_refused(
    rows: list[tuple[Any, ...]], alternatives: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    whole = written(make(rows, alternatives))
    with pytest.raises(FrameError):
        read_frame(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(source: bytes) -> None:
    try:
        frame = read_frame(source)
    except FrameError:
        return
    assert written(frame) == source


def test_a_frame_with_something_behind_it_is_refused() -> None:
    with pytest.raises(FrameError, match="make 56 bytes, not 57"):
        read_frame(written(ONE) + b"\0")


def test_a_count_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(FrameError):
        read_frame(b"\xff" * 8)


def test_a_target_too_small_is_refused_before_anything_is_written() -> None:
    target = bytearray(frame_bytes(1, 2) - 1)
    with pytest.raises(FrameError, match="56 bytes does not fit 55"):
        write_frame(ONE, memoryview(target))
    assert not any(target)


def test_what_lies_behind_a_frame_in_its_target_stays() -> None:
    target = bytearray(b"\xaa" * 64)
    assert write_frame(ONE, memoryview(target)) == 56
    assert target[56:] == b"\xaa" * 8


def test_reading_copies_nothing() -> None:
    source = bytearray(written(ONE))
    frame = read_frame(memoryview(source))
    assert write_frame(make([(1,) * 8], [(8, 0.0), (9, 0.0)]), memoryview(source)) == len(source)
    assert frame.rows["handle"].tolist() == [1]
    assert frame.alternatives["token"].tolist() == [8, 9]


def test_the_layout_is_little_endian_and_without_gaps() -> None:
    assert written(ONE) == b"".join(
        (
            b"\x01\0\0\0\x02\0\0\0",
            b"\x01\0\0\0\x07\0\0\0",  # handle
            b"\x02\0\0\0\x03\0\0\0\x04\0\0\0",  # attempt, position, token
            b"\0\0\0\xbf",  # logprob
            b"\x01\0\x02\0\x02\0\0\0",  # candidate, flags, alternatives
            b"\x05\0\0\0\0\0\xc0\xbf",
            b"\x06\0\0\0\0\0\x20\xc0",
        )
    )
