"""Results in files, and whether they are of today's kernels."""

from __future__ import annotations

import json
from pathlib import Path

from bench.kernels import results
from bench.kernels.campaign import Findings
from bench.kernels.lower_bounds import Ceilings
from kernels.triton.configs import kernels_hash

FINDINGS = Findings(
    {"gpu": "NVIDIA H200", "torch": "2", "cuda": "13", "triton": "3.6"}, Ceilings(4e12, 8e14), []
)


def test_results_are_stamped_with_the_kernels_that_they_are_of(tmp_path: Path) -> None:
    path = results.path_for("NVIDIA H200", tmp_path)

    results.write(results.of(FINDINGS, "a command"), path)
    (read,) = results.read_all(tmp_path)

    assert path.name == "nvidia-h200.json"
    assert read["kernels_hash"] == kernels_hash()
    assert not results.stale(read)
    assert read["ceilings"] == {"copy_bytes_per_s": 4e12, "matmul_flops_per_s": 8e14}


def test_results_of_other_kernels_are_stale(monkeypatch) -> None:
    written = results.of(FINDINGS, "a command")
    monkeypatch.setattr(results, "kernels_hash", lambda: "changed")

    assert results.stale(written)


def test_results_of_other_benchmarks_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text(json.dumps({"date": "today"}))
    (tmp_path / "list.json").write_text("[]")

    assert results.read_all(tmp_path) == []
