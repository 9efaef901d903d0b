"""Files of results: `bench/results/<gpu>.json`, one a GPU, not in git.

Invariant: a file names the kernels that it is of, so that figures of others are known to be stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.kernels.campaign import Findings
from kernels.triton.configs import kernels_hash, spell

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "bench" / "results"
_STAMP = "kernels_hash"

Results = Mapping[str, Any]


def of(findings: Findings, command: str) -> dict[str, Any]:
    """Findings as written to a file, stamped with the kernels' hash."""
    return {
        _STAMP: kernels_hash(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": command,
        "device": dict(findings.device),
        "ceilings": asdict(findings.ceilings),
        "figures": findings.figures,
    }


def write(results: Results, path: Path) -> None:
    """Write results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    unfinished.rename(path)


def read_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All results of kernels in a folder that has others too."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [results for results in found if isinstance(results, dict) and _STAMP in results]


def stale(results: Results) -> bool:
    """True if kernels or their launches have changed since."""
    return bool(results[_STAMP] != kernels_hash())


def path_for(gpu: str, folder: Path = FOLDER) -> Path:
    """File for the results of a GPU."""
    return folder / f"{spell(gpu)}.json"
