"""The installation builds what it can: without a compiler it succeeds, and PyTorch serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_without_a_compiler_the_installation_succeeds(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "setup.py", "build_ext"),
        *("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")),
    ]
    environment = {**os.environ, "CC": str(tmp_path / "no-compiler")}

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert 'building extension "kernels.cpu.native._library" failed' in done.stdout + done.stderr
    assert list(tmp_path.rglob("*.so")) == []
