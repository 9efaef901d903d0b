"""Recorded arrivals: when requests came, and how long prompts and answers were.

Two public formats are read, plain or gzipped: CSV with TIMESTAMP, ContextTokens and
GeneratedTokens (Azure's LLM inference traces), and JSON lines with timestamp in milliseconds,
input_length and output_length (Mooncake's).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from chassis.errors import StartError


@dataclass(frozen=True, slots=True)
class Arrival:
    """One recorded request.

    Attributes:
        at_s: seconds after the trace's first.
        prompt_tokens: length of its prompt.
        output_tokens: length of its answer.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Arrival]:
    """The arrivals in `path`, in order of time.

    Raises:
        StartError: it cannot be read, or is in neither format.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix in (".csv", ".jsonl")]
    if not suffixes:
        raise StartError(f"{path}: expected .csv, .csv.gz, .jsonl or .jsonl.gz")
    read = _read_csv if suffixes[-1] == ".csv" else _read_jsonl
    try:
        with _open(path) as lines:
            rows = sorted(read(lines))
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, ValueError, TypeError, EOFError) as error:
        raise StartError(f"{path} is no trace of a known format: {error!r}") from error
    if not rows:
        raise StartError(f"{path} holds no request")
    start = rows[0][0]
    return [Arrival(at - start, prompt, output) for at, prompt, output in rows]


def shape(
    arrivals: Iterable[Arrival], *, context_length: int, rate_scale: float
) -> Iterator[Arrival]:
    """Fit arrivals to a model and a rate.

    Args:
        arrivals: as recorded.
        context_length: prompt and answer are cut to fit in it together, the answer first.
        rate_scale: how many times faster than recorded they come.
    """
    for one in arrivals:
        prompt = max(1, min(one.prompt_tokens, context_length - 1))
        output = max(1, min(one.output_tokens, context_length - prompt))
        yield Arrival(one.at_s / rate_scale, prompt, output)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _read_csv(lines: TextIO) -> Iterator[tuple[float, int, int]]:
    for row in csv.DictReader(lines):
        at = datetime.fromisoformat(row["TIMESTAMP"]).timestamp()
        yield at, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _read_jsonl(lines: TextIO) -> Iterator[tuple[float, int, int]]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            yield row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"])
