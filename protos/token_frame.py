"""Layout of a token frame: the rows of one engine step, as arrays.

A frame is bytes, little-endian, the same in shared memory and inside a message: a header of two
uint32 (rows, alternatives), then `ROW` records, then `ALTERNATIVE` records. A reader of a frame
gets views, so the bytes must stay as they are until the views are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROW = np.dtype(
    [
        ("handle", "<u8"),
        ("attempt", "<u4"),
        ("position", "<u4"),  # of the output; of the prompt where PROMPT is set
        ("token", "<u4"),
        ("logprob", "<f4"),  # NaN where none was asked for
        ("candidate", "<u2"),
        ("flags", "<u2"),
        ("alternatives", "<u4"),  # how many ALTERNATIVE records are this row's, in row order
    ]
)
ALTERNATIVE = np.dtype([("token", "<u4"), ("logprob", "<f4")])

PROMPT = 1  # the row holds a prompt token's log-probability
STOP = 2  # the candidate ended with this token, an end-of-sequence or stop token
LENGTH = 4  # the candidate ended here for length
NO_TOKEN = 8  # the row carries an ending alone; beside STOP its token is the one before
FINISHED = STOP | LENGTH

_HEADER = np.dtype("<u4")
_HEADER_BYTES = 2 * _HEADER.itemsize

Rows = npt.NDArray[np.void]


class FrameError(Exception):
    """Bytes are not a token frame."""


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """One engine step's rows.

    Attributes:
        rows: [rows] of `ROW`.
        alternatives: [alternatives] of `ALTERNATIVE`; each row's follow those of the row before.
    """

    rows: Rows
    alternatives: Rows


def frame_bytes(rows: int, alternatives: int) -> int:
    """Size in bytes of a frame with that many records."""
    return _HEADER_BYTES + rows * ROW.itemsize + alternatives * ALTERNATIVE.itemsize


def write_frame(frame: TokenFrame, target: memoryview) -> int:
    """Write `frame` to the start of `target`; return the bytes written.

    Raises:
        FrameError: `target` is too small.
    """
    rows, alternatives = len(frame.rows), len(frame.alternatives)
    size = frame_bytes(rows, alternatives)
    if size > len(target):
        raise FrameError(f"a frame of {size} bytes does not fit {len(target)}")
    np.frombuffer(target, _HEADER, 2)[:] = rows, alternatives
    np.frombuffer(target, ROW, rows, _HEADER_BYTES)[:] = frame.rows
    offset = _HEADER_BYTES + rows * ROW.itemsize
    np.frombuffer(target, ALTERNATIVE, alternatives, offset)[:] = frame.alternatives
    return size


def read_frame(source: memoryview | bytes) -> TokenFrame:
    """Read a frame as views of `source`.

    Raises:
        FrameError: the header does not agree with the size.
    """
    if len(source) < _HEADER_BYTES:
        raise FrameError(f"{len(source)} bytes are too few for a frame")
    rows, alternatives = (int(n) for n in np.frombuffer(source, _HEADER, 2))
    if frame_bytes(rows, alternatives) != len(source):
        raise FrameError(
            f"{rows} rows and {alternatives} alternatives make {frame_bytes(rows, alternatives)} "
            f"bytes, not {len(source)}"
        )
    offset = _HEADER_BYTES + rows * ROW.itemsize
    return TokenFrame(
        np.frombuffer(source, ROW, rows, _HEADER_BYTES),
        np.frombuffer(source, ALTERNATIVE, alternatives, offset),
    )
