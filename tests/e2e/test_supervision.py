"""A deployment outlives the end of each of its services; nothing outlives its supervisor."""

import os
import re
import signal
import time
from pathlib import Path

import grpc
import pytest
from support.deployments import local

from protos import generation_pb2 as pb
from triptych import TriptychError

OPTIONS = ("--dtype", "float32", "--name", "tiny", "--kv-tokens", "4096")
WAIT_S = 60
REQUEST = pb.GenerateRequest(
    text="Once upon a time",
    sampling=pb.SamplingParams(seed=7),
    stop=pb.StopConditions(max_tokens=24, ignore_eos=True),
)


def until(what, holds):
    """Wait until `holds` says true; what comes in between may be refused."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if holds():
                return
        except (grpc.RpcError, TriptychError) as error:
            what = f"{what}: {error}"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def text_of(deployment):
    answer = deployment.api.Generate(REQUEST, timeout=WAIT_S, wait_for_ready=True)
    return answer.candidates[0].text


@pytest.fixture(scope="module")
def replicated(tiny):
    with local.deployed(tiny, *OPTIONS, "--replicas", "2") as deployment:
        yield deployment


def whole(deployment):
    return all(one.ready and one.reached for one in deployment.services().values())


def test_each_replica_is_a_model_and_a_detokenizer_of_its_own(replicated):
    until("all are ready", lambda: whole(replicated))

    assert replicated.services().keys() == {
        "router",
        "tokenizer",
        "model/0",
        "detokenizer/0",
        "model/1",
        "detokenizer/1",
    }
    assert replicated.settled_load().kv_slots_total == 2 * 4096, "--kv-tokens is for each"


@pytest.mark.parametrize("name", ["router", "tokenizer", "model/1", "detokenizer/0"])
def test_a_service_that_is_killed_comes_back(replicated, name):
    until("all are ready", lambda: whole(replicated))
    expected = text_of(replicated)
    before = replicated.services()
    os.kill(before[name].pid, signal.SIGKILL)
    until(f"{name} is another process", lambda: replicated.services()[name].restarts == 1)
    until("all are ready", lambda: whole(replicated))
    after = replicated.services()

    assert text_of(replicated) == expected
    assert [one for one in after if after[one].pid != before[one].pid] == [name]
    assert after[name].address == before[name].address
    said = [
        line for line in replicated.lines if f" {name} " in line and "starting it again" in line
    ]
    assert len(said) == 1
    assert "killed by SIGKILL" in said[0]
    assert len([line for line in replicated.lines if "ready on " in line]) == 1


def shared_files(pids):
    """The names in /dev/shm that these processes have mapped."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
    return {
        Path(name)
        for text in maps
        for name in re.findall(r"/dev/shm/triptych-\S+$", text, re.MULTILINE)
    }


def alive(pid):
    """Whether a process runs; one that has ended may wait for its parent to take note."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_killed_supervisor_takes_all_along_and_the_next_start_cleans_up(tiny, replicated):
    until("all are ready", lambda: whole(replicated))
    with local.deployed(tiny, *OPTIONS) as one:
        expected = text_of(replicated)
        assert text_of(one) == expected, "two on one machine do not meet"
        neighbours = replicated.pids()
        pids = one.pids()
        folder = Path(one.services()["model"].address.removeprefix("unix:")).parent
        left = shared_files(pids)
        assert len(pids) == 1 + 4 + 2, "the supervisor, the services, the tokenizer's workers"
        assert len(left) >= 2, "the arena and the ring"

        one.kill()
        until("all have ended with it", lambda: not any(map(alive, pids)))

    assert replicated.pids() == neighbours
    with local.deployed(tiny, *OPTIONS) as after:
        assert text_of(after) == text_of(replicated) == expected
        assert not folder.exists()
        assert not [path for path in left if path.exists()]
        assert all(path.exists() for path in shared_files(neighbours))
