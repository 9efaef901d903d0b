"""The training text: the Python standard library's own sources, and requests paired with functions.

Invariant: the same tree gives the same documents in the same order, and no text of a held-out file
is ever trained on.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROLES = ("user", "assistant", "system")
END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|end|>"

# Generated tables, foreign trees and files that are broken on purpose.
SKIPPED_FOLDERS = frozenset(
    {
        "site-packages",
        "encodings",
        "pydoc_data",
        "idle_test",
        "__phello__",
        "encoded_modules",
        "data",
    }
)
TEST_FOLDERS = frozenset({"test", "tests"})
LONGEST_FILE_CHARS = 150_000
LONGEST_ANSWER_CHARS = 1_500
HELD_OUT_ONE_IN = 64
# Tests are half of the library and repeat themselves; a model of them loops on assertEqual.
TESTS_KEPT_ONE_IN = 12
CHATS_KEPT_ONE_IN = 2


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and whole files held out to validate on."""

    training: tuple[str, ...]
    chats: tuple[str, ...]
    validation: tuple[str, ...]
    files: int


def standard_library() -> Path:
    """Folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def _rank(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _wanted(relative: Path) -> bool:
    folders = set(relative.parts[:-1])
    if folders & SKIPPED_FOLDERS or any(folder.startswith("config-") for folder in folders):
        return False
    if folders & TEST_FOLDERS:
        return _rank(relative.as_posix()) % TESTS_KEPT_ONE_IN == 0
    return True


def _parse(source: str) -> ast.Module | None:
    """The syntax tree, or None for what this Python does not accept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def read_sources(root: Path) -> dict[str, str]:
    """All usable sources below a folder.

    Args:
        root: folder searched for `*.py`.

    Returns:
        Text by path relative to the folder, in the order of the paths.

    Raises:
        ValueError: the folder holds no usable Python source.
    """
    sources = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _wanted(relative):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if 0 < len(text) <= LONGEST_FILE_CHARS and _parse(text) is not None:
            sources[relative.as_posix()] = text
    if not sources:
        raise ValueError(f"no Python sources to train on below {root}")
    return sources


def turn(role: str, content: str) -> str:
    """One message in the form that the chat template renders."""
    return f"<|{role}|>\n{content}{END_OF_TURN}\n"


def chat_documents(source: str) -> Iterator[str]:
    """Turn each short documented function of a file into a request and its answer.

    Args:
        source: text of one Python file.

    Yields:
        Chats in the chat template's form: the request names the function and quotes the first
        line of its docstring, the answer is its source.
    """
    tree = _parse(source)
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        summary = (ast.get_docstring(node) or "").strip().partition("\n")[0]
        code = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).rstrip()
        if not summary or len(code) > LONGEST_ANSWER_CHARS:
            continue
        rank = _rank(code)
        if rank % CHATS_KEPT_ONE_IN == 0:
            yield _chat(f"Write the function {node.name}: {summary}", code, rank)


def _chat(request: str, answer: str, rank: int) -> str:
    # A system message before one chat in six, so that its token is not new to the model.
    system = turn("system", "You write Python.") if rank // CHATS_KEPT_ONE_IN % 6 == 0 else ""
    return system + turn("user", request) + turn("assistant", answer)


def build_corpus(root: Path) -> Corpus:
    """Read the sources and hold out one file in `HELD_OUT_ONE_IN`, chosen by the hash of its path.

    Args:
        root: folder searched for `*.py`.

    Raises:
        ValueError: fewer than two usable files, so that nothing would be left to train on.
    """
    sources = read_sources(root)
    if len(sources) < 2:
        raise ValueError(f"only {len(sources)} Python source below {root}; two are the least")
    by_rank = sorted(sources, key=_rank)
    held_out = set(by_rank[: max(1, len(by_rank) // HELD_OUT_ONE_IN)])
    trained = [text for path, text in sources.items() if path not in held_out]
    return Corpus(
        training=tuple(trained),
        chats=tuple(chat for text in trained for chat in chat_documents(text)),
        validation=tuple(text for path, text in sources.items() if path in held_out),
        files=len(sources),
    )
