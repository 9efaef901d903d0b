"""The GPU's own clock, with torch's interface to it made up."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from bench.kernels.device import Gpu

LOG: list[str] = []


class Stream:
    def __init__(self, name: str = "side") -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        LOG.append(f"{self.name} waits for {other.name}")


class Graph:
    def replay(self) -> None:
        LOG.append("replay")


class Event:
    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = Event.made**2
        Event.made += 1

    def record(self) -> None:
        LOG.append("record")

    def elapsed_time(self, end: Event) -> float:
        assert LOG[-1] == "synchronize"
        return (end.at - self.at) / 1000


@contextmanager
def within(kind: str, of: object):
    LOG.append(f"into {kind}")
    yield
    LOG.append(f"out of {kind}")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    LOG.clear()
    Event.made = 0
    made_up = {
        "get_device_properties": lambda _: SimpleNamespace(L2_cache_size=60),
        "Stream": Stream,
        "current_stream": lambda: Stream("main"),
        "stream": lambda stream: within("stream", stream),
        "graph": lambda graph: within("capture", graph),
        "CUDAGraph": Graph,
        "Event": Event,
        "synchronize": lambda: LOG.append("synchronize"),
    }
    for name, value in made_up.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return Gpu()


def test_work_is_warmed_beside_the_stream_and_waited_for(gpu: Gpu) -> None:
    gpu.warm(lambda: LOG.append("work"))

    assert LOG == [
        "side waits for main",
        "into stream",
        "work",
        "out of stream",
        "main waits for side",
        "synchronize",
    ]


def test_captured_work_is_done_by_replay_alone(gpu: Gpu) -> None:
    replay = gpu.capture(lambda: LOG.append("work"))
    replay()

    assert LOG == ["into capture", "work", "out of capture", "replay"]


def test_replays_are_queued_before_the_first_is_waited_for(gpu: Gpu) -> None:
    times = gpu.times_us(lambda: LOG.append("replay"), 3)

    queued = ["replay", "record"] * 4
    assert [*queued, "synchronize"] == LOG
    assert times == [1.0, 3.0, 5.0]


def test_the_cache_is_the_gpus(gpu: Gpu) -> None:
    assert gpu.cache_bytes == 60
