"""A check that our top-level packages are the ones that Python finds.

Their names are plain words, and another distribution may have one of them. Nothing of ours is
imported here, because that might already be another's.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_COMMANDS = ("protos", "chassis")
_SERVICES = ("kernels", "router", "tokenizer_svc", "model_svc", "detokenizer_svc")

_FIND = """
import sys
from importlib.util import find_spec
for name in sys.argv[1:]:
    spec = find_spec(name)
    print(getattr(spec, "origin", None) or "")
"""


def foreign_package() -> str | None:
    """A line about a package that this process finds elsewhere, or None."""
    specs = {name: find_spec(name) for name in _COMMANDS}
    return _complaint({name: (spec and spec.origin) or "" for name, spec in specs.items()})


def foreign_package_of_services(environment: Mapping[str, str]) -> str | None:
    """A line about a package that services in `environment` would find elsewhere, or None.

    It takes as long as Python takes to start.
    """
    names = (*_COMMANDS, *_SERVICES)
    command = (sys.executable, "-c", _FIND, *names)
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return _complaint(dict(zip(names, found.stdout.splitlines(), strict=False)))


def _complaint(found: Mapping[str, str]) -> str | None:
    for name, place in found.items():
        ours = ROOT / name / "__init__.py"
        if Path(place).resolve() != ours:
            return (
                f"Python finds the package {name!r} in {place or 'no place'}, not Triptych's own "
                f"in {ours}; uninstall what brings the other one, or put {ROOT} first in PYTHONPATH"
            )
    return None
