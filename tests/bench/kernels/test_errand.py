"""Workers that die, hang or are well, in place of one that needs a GPU."""

from __future__ import annotations

import sys

import pytest

from bench.kernels.errand import Errand, Lost

WORKER = """
import json, sys, time
print(json.dumps({"gpu": "GPU X"}), flush=True)
for count, line in enumerate(sys.stdin):
    request = json.loads(line)
    if request["do"] == "die":
        raise ValueError("a bad shape")
    if request["do"] == "vanish":
        sys.exit(3)
    if request["do"] == "hang":
        time.sleep(1000)
    print(json.dumps({"count": count}), flush=True)
"""
COMMAND = (sys.executable, "-c", WORKER)


@pytest.fixture
def errand():
    errand = Errand(COMMAND)
    yield errand
    errand.close()


def test_one_worker_answers_as_long_as_it_lives(errand: Errand) -> None:
    assert [errand.ask({"do": "count"})["count"] for _ in range(3)] == [0, 1, 2]
    assert errand.device == {"gpu": "GPU X"}


def test_what_a_worker_died_of_is_told_and_another_takes_its_place(errand: Errand) -> None:
    errand.ask({"do": "count"})

    with pytest.raises(Lost, match="ValueError: a bad shape"):
        errand.ask({"do": "die"})

    assert errand.ask({"do": "count"})["count"] == 0


def test_a_worker_that_dies_without_a_word_is_lost_by_its_status(errand: Errand) -> None:
    with pytest.raises(Lost, match="died with status"):
        errand.ask({"do": "vanish"})


def test_a_worker_that_takes_too_long_is_stopped(errand: Errand) -> None:
    errand.ask({"do": "count"})

    with pytest.raises(Lost, match="no answer within 1 s"):
        errand.ask({"do": "hang"}, most_s=0.1)

    assert errand.ask({"do": "count"})["count"] == 0


def test_a_worker_that_cannot_start_is_lost() -> None:
    errand = Errand((sys.executable, "-c", "import no_such_module_here"))

    with pytest.raises(Lost, match="ModuleNotFoundError"):
        errand.ask({"do": "count"})


def test_the_real_worker_says_why_it_cannot_start_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with pytest.raises(Lost, match=r"CUDA|NVIDIA"):
        Errand().ask({"ceiling": "copy"})
