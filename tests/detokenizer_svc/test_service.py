"""What the detokenizer reads of a checkpoint before it serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_tokenizers import byte_level, write_checkpoint

from detokenizer_svc.service import read_vocabulary

ROOT = Path(__file__).resolve().parents[2]
SIZE = byte_level().get_vocab_size()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (None, SIZE),
        ('{"vocab_size": 1000}', 1000),
        ('{"vocab_size": 3}', SIZE),
        ('{"vocab_size": null}', SIZE),
        ("{}", SIZE),
        ("[]", SIZE),
        ("{", SIZE),
    ],
)
def test_ids_are_known_up_to_the_models_padding(
    tmp_path: Path, config: str | None, size: int
) -> None:
    write_checkpoint(tmp_path, byte_level())
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert read_vocabulary(tmp_path)[1] == size


def test_a_missing_tokenizer_is_told_in_one_line(tmp_path: Path) -> None:
    named = {
        "TRIPTYCH_DETOKENIZER_LISTEN": f"unix:{tmp_path}/detokenizer.sock",
        "TRIPTYCH_DETOKENIZER_MODEL": str(tmp_path),
        "TRIPTYCH_DETOKENIZER_MODEL_ADDRESS": f"unix:{tmp_path}/model.sock",
    }
    process = subprocess.run(
        [sys.executable, "-m", "detokenizer_svc"],
        cwd=ROOT,
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("triptych detokenizer: ")
    assert "tokenizer.json is missing; convert" in process.stderr
    assert "Traceback" not in process.stderr
