"""Another distribution's package of our name is told of in one line, before anything starts."""

import os
import subprocess
import sys

import pytest

from triptych import packages


@pytest.fixture
def other(tmp_path):
    """A folder with a package of another distribution; its name comes from the test."""

    def make(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not ours')")
        return tmp_path

    return make


def test_ours_are_found_here():
    assert packages.foreign_package() is None
    assert packages.foreign_package_of_services(os.environ) is None


@pytest.mark.parametrize("name", ["kernels", "protos", "chassis", "router"])
def test_another_package_of_our_name_is_told_with_both_places_and_the_remedy(other, name):
    folder = other(name)
    (folder / "config.json").write_text("{}")
    command = [sys.executable, "-P", "-m", "triptych", "serve", "--model", str(folder)]
    paths = (str(folder), *sys.path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"triptych: Python finds the package {name!r} in {folder}/")
    assert f"not Triptych's own in {packages.ROOT / name / '__init__.py'}" in ended.stderr
    assert "uninstall" in ended.stderr
    assert ended.stderr.count("\n") == 1
