"""Workers that raise, die, hang or answer, instead of one that needs a GPU."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bench.kernels.__main__ import worker_client
from bench.kernels.measuring.worker_client import Lost, WorkerClient

ANSWERED = iter(range(10))


def describe() -> dict[str, str]:
    return {"gpu": "GPU X"}


def refuse() -> dict[str, str]:
    raise ModuleNotFoundError("no driver")


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "raise":
        raise ValueError("a bad shape")
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "hang":
        time.sleep(1000)
    return {"count": next(ANSWERED), "pid": os.getpid()}


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    client = WorkerClient(describe, answer)
    yield client
    client.close()


def count(client: WorkerClient) -> int:
    return int(client.ask({"do": "count"})["count"])


def test_one_worker_answers_as_long_as_it_lives(client: WorkerClient) -> None:
    assert [count(client) for _ in range(3)] == [0, 1, 2]
    assert client.device == {"gpu": "GPU X"}


@pytest.mark.parametrize(
    ("fault", "most_s", "cause"),
    [
        ("raise", None, "ValueError: a bad shape"),
        ("die", None, "BrokenProcessPool"),
        ("hang", 0.1, "no answer within 1 s"),
    ],
)
def test_a_worker_that_failed_is_replaced(
    client: WorkerClient, fault: str, most_s: float | None, cause: str
) -> None:
    pid = client.ask({"do": "count"})["pid"]

    with pytest.raises(Lost, match=cause):
        client.ask({"do": fault}, most_s)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert count(client) == 0


def test_a_worker_that_cannot_start_is_lost() -> None:
    client = WorkerClient(refuse, answer)

    with pytest.raises(Lost, match="ModuleNotFoundError: no driver"):
        client.ask({"do": "count"})
    client.close()


def test_the_real_worker_names_the_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    client = worker_client()

    with pytest.raises(Lost, match=r"CUDA|NVIDIA"):
        client.ask({"ceiling": "copy"})
    client.close()
