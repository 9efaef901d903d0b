"""Which processes are found below a root."""

import asyncio
import os
import subprocess
import sys

import pytest

from bench.faults.deployment.processes import DETOKENIZER, MODEL, OTHER_MODEL, ProcessTable

FAKE = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def start(tmp_path):
    """Starts a process that looks like a service."""
    started = []

    def start(module, listen):
        (tmp_path / f"{module}.py").write_text(FAKE)
        name = module.removesuffix("_svc").upper()
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=tmp_path,
            env={**os.environ, f"TRIPTYCH_{name}_LISTEN": listen},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_services_are_told_apart_and_replicas_numbered_by_their_addresses(start):
    second = start("model_svc", "unix:/b")
    first = start("model_svc", "unix:/a")
    detokenizer = start("detokenizer_svc", "unix:/c")

    found = ProcessTable(os.getpid()).processes()

    assert {place: one.pid for place, one in found.items()} == {
        MODEL: first.pid,
        OTHER_MODEL: second.pid,
        DETOKENIZER: detokenizer.pid,
    }
    assert found[MODEL].listen == "unix:/a"
    assert 0 <= found[MODEL].age_s < 60


def test_a_replica_keeps_its_number_when_the_other_has_ended(start):
    first, second = start("model_svc", "unix:/a"), start("model_svc", "unix:/b")
    processes = ProcessTable(os.getpid())
    processes.processes()
    first.kill()
    first.wait()

    assert processes.find(MODEL) is None
    assert processes.find(OTHER_MODEL).pid == second.pid


def test_a_process_that_descends_from_another_root_is_not_seen(start):
    model = start("model_svc", "unix:/a")

    assert ProcessTable(model.pid).processes() == {}


async def test_a_successor_is_waited_for(start):
    first = start("model_svc", "unix:/a")
    waiting = asyncio.ensure_future(ProcessTable(os.getpid()).successor(MODEL, first.pid))
    await asyncio.sleep(0)
    first.kill()
    first.wait()
    second = start("model_svc", "unix:/a")

    assert (await waiting).pid == second.pid


def test_shared_files_are_remembered_until_they_are_gone(start, monkeypatch, tmp_path):
    model = start("model_svc", "unix:/a")
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    kept.touch()
    monkeypatch.setattr("bench.faults.deployment.processes._mapped", {model.pid: [kept, gone]}.get)
    processes = ProcessTable(os.getpid())
    processes.note_files()

    assert processes.left_files() == [kept]
