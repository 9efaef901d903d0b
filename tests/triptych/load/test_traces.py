"""Recorded arrivals, read and fitted."""

import gzip

import pytest

from chassis.errors import StartError
from triptych.load.traces import Arrival, read_trace, shape

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9305900,396,109
"""
MOONCAKE = """{"timestamp": 27000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 1]}
{"timestamp": 3500, "input_length": 6758, "output_length": 500, "hash_ids": [0]}

"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("t.csv", AZURE, [Arrival(0.0, 374, 44), Arrival(4.25, 396, 109)]),
        ("t.jsonl", MOONCAKE, [Arrival(0.0, 6758, 500), Arrival(23.5, 7322, 490)]),
    ],
)
def test_reads_both_formats_in_order_of_time(tmp_path, packed, name, text, want):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    assert read_trace(path) == [
        Arrival(pytest.approx(one.at_s), one.prompt_tokens, one.output_tokens) for one in want
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"a,b\n1,2\n"),
        ("t.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n"),
        ("t.jsonl", b"{"),
        ("t.jsonl", b'{"timestamp": 1}\n'),
        ("t.jsonl", b"\n"),
        ("t.csv.gz", b"not gzip"),
        ("t.txt", b""),
    ],
)
def test_what_is_no_trace_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(StartError, match=name):
        read_trace(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StartError, match=r"cannot read .*none\.csv"):
        read_trace(tmp_path / "none.csv")


def test_lengths_are_cut_to_the_context_and_times_scaled():
    arrivals = [Arrival(6.0, 90, 20), Arrival(9.0, 500, 20), Arrival(12.0, 0, 0)]

    fitted = list(shape(arrivals, context_length=100, rate_scale=3.0))

    assert fitted == [Arrival(2.0, 90, 10), Arrival(3.0, 99, 1), Arrival(4.0, 1, 1)]
