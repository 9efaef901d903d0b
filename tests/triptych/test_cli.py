"""The command line as a whole."""

import subprocess
import sys

from typer.testing import CliRunner

from triptych.cli import app

HEAVY = {"grpc", "torch", "rich", "numpy", "google.protobuf", "prometheus_client", "uvloop"}


def test_help_names_every_command():
    shown = CliRunner().invoke(app, ["--help"]).stdout

    assert all(name in shown for name in ("serve", "generate", "chat", "bench", "status"))


def test_help_needs_nothing_heavy():
    code = "import sys, triptych.cli; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert not HEAVY & set(loaded.stdout.split())


def test_the_version_is_printed():
    ended = CliRunner().invoke(app, ["--version"])

    assert ended.exit_code == 0
    assert ended.stdout.strip()


def test_every_public_name_of_the_package_is_there():
    import triptych

    assert all(getattr(triptych, name) for name in triptych.__all__)
    assert set(triptych.__all__) <= set(dir(triptych))


def test_the_names_of_the_package_are_those_of_its_client():
    import triptych
    from triptych import client

    assert set(triptych.__all__) == set(client.__all__)
