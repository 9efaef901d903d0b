"""The C code under AddressSanitizer: it reads and writes nothing that is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.c.levels import LEVELS
from kernels.c.library import installed, supported

ROOT = Path(__file__).resolve().parents[3]
COMPILER = os.environ.get("CC", "cc")
# Unoptimised: optimising what the sanitiser adds takes minutes.
FLAGS = (
    "-g -O0 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
)
TESTS = [
    "tests/kernels/c/test_attention.py",
    "tests/kernels/c/test_calls.py",
    "tests/kernels/c/test_linear.py",
    "tests/kernels/c/test_quantised.py",
    "tests/kernels/c/test_quantised_experts.py",
    "tests/kernels/c/test_teams.py",
    "tests/kernels/cpu/test_rows.py",
]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def runtimes() -> str:
    """What has to be loaded before Python: the sanitiser, and what torch throws with; or skip."""
    names = ("libasan.so", "libstdc++.so.6")
    try:
        found = [run(COMPILER, f"-print-file-name={name}").stdout.strip() for name in names]
    except FileNotFoundError:
        pytest.skip(f"no C compiler called {COMPILER!r}: set CC")
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip(f"{COMPILER} has no libasan.so, with which GCC sanitises addresses")
    return " ".join(found)


@pytest.fixture(params=LEVELS)
def sanitised(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A library of one level, so that levels are compiled and tested side by side."""
    runtimes()
    path = installed()
    if path is None or request.param not in supported(path):
        pytest.skip(f"this processor does not support {request.param}")
    folder = tmp_path / "library"
    made = run(
        *(sys.executable, "setup.py", "build_ext"),
        *("--build-lib", str(folder), "--build-temp", str(folder)),
        TRIPTYCH_BUILD_LEVELS=request.param,
        CFLAGS=FLAGS,
    )
    libraries = list(folder.glob("kernels/c/_library*.so"))
    assert len(libraries) == 1, made.stdout + made.stderr
    return libraries[0]


def run_tests(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(sys.executable, "-m", "pytest", "--quiet", "-s", "-x", "-p", "no:faulthandler"),
        *("-p", "no:cacheprovider", "-o", "timeout=600", *arguments),
        LD_PRELOAD=runtimes(),
        # Python and torch keep much until they end, and allocate without the sanitiser's leave.
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:exitcode=99",
        TRIPTYCH_TEST_LIBRARY=str(library),
    )


def assert_reading_past_a_row_is_found(library: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text(
        "import os, pathlib, torch\n"
        "from kernels.c.arguments import SILU_MUL\n"
        "from kernels.c.library import Library, built\n"
        "def test_wrong():\n"
        "    path = pathlib.Path(os.environ['TRIPTYCH_TEST_LIBRARY'])\n"
        "    library = Library(path, built(path)[0])\n"
        "    x, out = torch.zeros(6), torch.zeros(4)\n"
        "    where = x.data_ptr(), out.data_ptr()\n"
        "    library.function('silu_mul')(SILU_MUL.pack(0, 1, *where, 1, 4))\n"
    )

    done = run_tests(library, str(wrong))

    assert done.returncode == 99
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr + done.stdout


@pytest.mark.timeout(900)
def test_operations_read_and_write_only_their_own(
    sanitised: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = request.config.option
    sweeps = ["--full"] if options.full else ["--sweep-seed", str(options.sweep_seed)]

    assert_reading_past_a_row_is_found(sanitised, tmp_path)
    done = run_tests(sanitised, *sweeps, *TESTS)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
