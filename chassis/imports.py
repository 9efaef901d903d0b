"""Import paths of the Python processes that this one starts.

They load our packages from where this process has loaded them, and nothing from their working
directory or from a folder that another user may write to.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = "chassis"

# They name folders that modules, or what is compiled of them, are loaded from.
_FOLDERS = ("PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX")
# For a session at a prompt; the second would have a service wait for one when it ends.
_INTERACTIVE = ("PYTHONSTARTUP", "PYTHONINSPECT")


def import_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment for a Python process that this one starts."""
    left_out = {name for name in _FOLDERS if refusal(environment.get(name, "/")) is not None}
    left_out.update(_INTERACTIVE)
    kept = {name: value for name, value in environment.items() if name not in left_out}
    if sys.flags.ignore_environment:  # what this process was not to heed, none it starts is
        kept = {name: value for name, value in kept.items() if not name.startswith("PYTHON")}
    if sys.flags.no_user_site:
        kept["PYTHONNOUSERSITE"] = "1"
    kept["PYTHONSAFEPATH"] = "1"  # not the working directory
    paths = [path for path in _listed(kept, "PYTHONPATH") if refusal(path) is None]
    if str(ROOT) not in map(os.path.realpath, paths) and _only_on_our_path():
        paths.insert(0, str(ROOT))
    _set_list(kept, "PYTHONPATH", paths)
    libraries = [path for path in _listed(kept, "LD_LIBRARY_PATH") if os.path.isabs(path)]
    _set_list(kept, "LD_LIBRARY_PATH", libraries)
    return kept


def refused_folders(environment: Mapping[str, str]) -> dict[str, str]:
    """Reasons to leave folders out, by variable, or by folder of `PYTHONPATH`.

    Of folders that are not there nothing is said.
    """
    named = {name: environment[name] for name in _FOLDERS if environment.get(name)}
    named |= {path: path for path in _listed(environment, "PYTHONPATH")}
    reasons = {name: refusal(path) for name, path in named.items() if os.path.exists(path)}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def refusal(path: str) -> str | None:
    """Reason to import nothing from `path`; None if it belongs to this user or the system."""
    if not os.path.isabs(path):
        return "it is relative to the working directory"
    place = Path(path).resolve()
    for folder in (place, *place.parents):
        try:
            found = folder.stat()
        except OSError:
            continue  # what is not there cannot be imported from
        if found.st_uid not in (0, os.geteuid()):
            return f"{folder} belongs to another user"
        by_others = found.st_mode & stat.S_IWOTH
        if found.st_gid not in (0, os.getegid()):
            by_others |= found.st_mode & stat.S_IWGRP
        # In a folder such as /tmp others can add what they like, but not replace what is ours.
        if by_others and (folder == place or not found.st_mode & stat.S_ISVTX):
            return f"other users may write to {folder}"
    return None


def _listed(environment: Mapping[str, str], name: str) -> list[str]:
    return [path for path in environment.get(name, "").split(os.pathsep) if path]


def _set_list(environment: dict[str, str], name: str, paths: list[str]) -> None:
    environment.pop(name, None)
    if paths:
        environment[name] = os.pathsep.join(dict.fromkeys(paths))


def _only_on_our_path() -> bool:
    """True if no other process would find our packages, since they are not installed."""
    paths = [os.path.realpath(path) for path in sys.path]
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    place = paths.index(library) if library in paths else len(paths)
    if str(ROOT) not in paths[:place] or str(ROOT) in paths[place:]:
        return False
    for finder in sys.meta_path:
        if finder is not PathFinder and (spec := finder.find_spec(_PACKAGE, None, None)):
            return Path(spec.origin or "").resolve() != ROOT / _PACKAGE / "__init__.py"
    return True
