"""Faults in real deployments under load, which no client may notice: `python -m bench.faults`.

The exit code is 1 if a request was lost or changed, or anything was left behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from bench import machine
from bench.faults import report, schedule
from bench.faults.campaign import Campaign
from bench.faults.deployment.running import ROOT

RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rounds, print their table, write the results; the exit code."""
    options = _parse(arguments)
    chosen = schedule.choose(options.only, options.rounds)
    if not chosen:
        sys.exit("faults: no round has that in its name; --list names all")
    if options.list:
        print("\n".join(one.name for one in chosen))
        return 0
    console = Console()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(options.seed, options.logs or Path(folder), console)
        uvloop.run(campaign.run(chosen))
    console.print(report.summary(campaign.results))
    for complaint in campaign.complaints:
        console.print(complaint)
    everything = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "command": " ".join(["python -m bench.faults", *(arguments or sys.argv[1:])]),
        "seed": options.seed,
        "took_s": time.monotonic() - began,
    }
    written = options.results or _usual_folder(options)
    if written is not None:
        _write(written, everything, campaign)
    return 0 if campaign.good else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the faults")
    parser.add_argument("--rounds", type=int, help="how many; more than there are: all again")
    parser.add_argument("--only", action="append", default=[], help="part of a round's name")
    parser.add_argument("--list", action="store_true", help="name the rounds and end")
    parser.add_argument("--logs", type=Path, help="folder for the services' logs")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder to write to; by itself, a run of all rounds writes to bench/results",
    )
    return parser.parse_args(arguments)


def _usual_folder(options: argparse.Namespace) -> Path | None:
    """Folder for the results of a run of all rounds; None for any other run."""
    return None if options.only or options.rounds is not None else RESULTS


def _write(folder: Path, everything: dict[str, object], campaign: Campaign) -> None:
    results = [asdict(result) for result in campaign.results]
    unavailable = {**everything, "complaints": campaign.complaints, "results": results}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(json.dumps(unavailable, indent=2) + "\n", encoding="utf-8")
    page = report.markdown(everything, campaign.results)
    (folder / "faults.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
