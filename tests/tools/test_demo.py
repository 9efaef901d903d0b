from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import demo

SERVES = """
    import signal
    print("loading", flush=True)
    print("ready on 127.0.0.1:1", flush=True)
    signal.sigwait([signal.SIGINT])
"""
FAILS_TO_START = """
    sys.exit("no checkpoint there")
"""
STOPS_BADLY = (
    SERVES
    + """
    sys.exit(3)
"""
)
ANSWERS = """
    assert sys.argv[2:4] == ["--address", "127.0.0.1:1"]
    print("\\n    with open(path) as file:")
"""
ANSWERS_NOTHING = """
    pass
"""
FAILS_TO_ANSWER = """
    sys.exit(1)
"""


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, serve: str, generate: str) -> None:
    """Put a stand-in for the `triptych` command where the demo looks for it."""
    script = folder / "triptych"
    lines = [
        f"#!{sys.executable}",
        "import signal, sys",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",
        "if sys.argv[1] == 'serve':" + serve,
        "else:" + generate,
    ]
    script.write_text("\n".join(lines))
    script.chmod(0o700)
    monkeypatch.setattr(demo, "TRIPTYCH", (str(script),))


def test_passes_the_text_on_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pretend(tmp_path, monkeypatch, SERVES, ANSWERS)
    assert demo.main() == 0
    shown = capfdbinary.readouterr().out.decode()
    assert shown == "def read_file(path):\n    with open(path) as file:\n"


@pytest.mark.parametrize(
    ("serve", "generate", "complaint"),
    [
        (FAILS_TO_START, ANSWERS, "ended before they were ready"),
        (SERVES, ANSWERS_NOTHING, "without any text"),
        (SERVES, FAILS_TO_ANSWER, "exit code 1"),
        (STOPS_BADLY, ANSWERS, "exit code 3"),
    ],
    ids=["no start", "no text", "failed call", "bad stop"],
)
def test_says_what_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    serve: str,
    generate: str,
    complaint: str,
) -> None:
    pretend(tmp_path, monkeypatch, serve, generate)
    assert demo.main() == 1
    assert complaint in capfd.readouterr().err


def test_shows_what_the_services_logged_where_they_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretend(tmp_path, monkeypatch, FAILS_TO_START, ANSWERS)
    demo.main()
    assert "no checkpoint there" in capfd.readouterr().err
