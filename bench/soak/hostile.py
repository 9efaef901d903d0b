"""Send hostile inputs for a time: `python -m bench.soak.hostile ADDRESS SECONDS SEED`.

A process of its own, because making an input stalls the loop that makes it. Prints one JSON
object: the status codes that each input was answered with, and the slowest answer in seconds.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import grpc

from bench.soak.inputs import INPUTS, MIB, Input

_SERVICE = "/triptych.v1.GenerationService/"
_LIMIT_S = 60.0


def send(channel: grpc.Channel, one: Input) -> str:
    """The name of the status that `one` is answered with."""
    streams, method = one.method.endswith("Stream"), _SERVICE + one.method
    start: Any = channel.unary_stream(method) if streams else channel.unary_unary(method).future
    compression = grpc.Compression.Gzip if one.gzip else None
    call = start(one.make(), timeout=_LIMIT_S, compression=compression)
    timer = threading.Timer(one.give_up_s or _LIMIT_S, call.cancel)
    timer.start()
    try:
        for _ in call if streams else ():
            pass
        return str(call.code().name)
    except grpc.RpcError as error:
        return str(error.code().name)
    finally:
        timer.cancel()


def run(address: str, seconds: float, seed: int) -> dict[str, object]:
    """Send inputs in random order, one after another, until the time is over."""
    chance = random.Random(seed)
    codes: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    limit = ("grpc.max_start_callmessage_length", 1024 * MIB)
    ends = time.monotonic() + seconds
    with grpc.insecure_channel(address, options=[limit]) as channel:
        while time.monotonic() < ends:
            name = chance.choice(list(INPUTS))
            began = time.monotonic()
            codes[name][send(channel, INPUTS[name])] += 1
            slowest[name] = max(slowest[name], time.monotonic() - began)
    return {name: {"codes": dict(codes[name]), "slowest_s": slowest[name]} for name in codes}


def main(arguments: Sequence[str]) -> None:
    """Run and print."""
    address, seconds, seed = arguments
    print(json.dumps(run(address, float(seconds), int(seed))))


if __name__ == "__main__":
    main(sys.argv[1:])
