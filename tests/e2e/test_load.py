"""Queueing, slow clients and idleness, seen from outside."""

import os
import threading
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2
from support import checkpoints
from support.deployments import local

from protos import generation_pb2 as g

_TICKS = os.sysconf("SC_CLK_TCK")
IDLE_S = 10
IDLE_CPU_SHARE = 0.02


def message(max_tokens, text="hello"):
    request = g.GenerateRequest(text=text)
    request.sampling.temperature = 0
    request.stop.max_tokens = max_tokens
    request.stop.ignore_eos = True
    return request


def test_a_full_queue_refuses_with_a_time_to_retry(tmp_path):
    model = checkpoints.write_checkpoint(tmp_path, "llama", max_position_embeddings=2048)
    options = ("--kv-tokens", "300")
    with local.deployed(model, *options, env={"TRIPTYCH_ROUTER_MAX_QUEUE": "2"}) as deployment:
        calls = [deployment.api.GenerateStream(message(250), timeout=60) for _ in range(12)]
        outcomes = []
        for call in calls:
            try:
                outcomes.append(sum(1 for _ in call) > 0)
            except grpc.RpcError as error:
                outcomes.append(error)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
        deployment.settled_load()

    assert refusals
    assert outcomes.count(True) >= 2
    for error in refusals:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        status = next(
            status_pb2.Status.FromString(value)
            for key, value in error.trailing_metadata()
            if key == "grpc-status-details-bin"
        )
        retry = error_details_pb2.RetryInfo()
        assert any(box.Unpack(retry) for box in status.details)
        assert retry.retry_delay.ToMilliseconds() > 0


def test_a_slow_client_gets_all_of_its_text_and_slows_nobody(shared_deployment):
    whole = shared_deployment.api.Generate(message(600), timeout=60).candidates[0].text
    slow = shared_deployment.api.GenerateStream(message(600), timeout=120)
    first = next(slow)

    for _ in range(3):
        shared_deployment.api.Generate(message(20), timeout=30)
    shared_deployment.api.Generate(message(700), timeout=60)
    parts = [first, *slow]

    assert "".join(d.text for part in parts for d in part.deltas) == whole


def test_many_cancelled_streams_leave_no_slot_held(shared_deployment):
    def start_and_leave():
        call = shared_deployment.api.GenerateStream(message(800), timeout=60)
        next(call)
        call.cancel()

    threads = [threading.Thread(target=start_and_leave) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    shared_deployment.settled_load()


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def test_an_idle_deployment_uses_no_cpu_worth_measuring(shared_deployment):
    for _ in range(4):
        shared_deployment.api.Generate(message(50), timeout=30)
    pids = shared_deployment.pids()
    before = cpu_seconds(pids)
    time.sleep(IDLE_S)

    assert cpu_seconds(pids) - before < IDLE_CPU_SHARE * IDLE_S
