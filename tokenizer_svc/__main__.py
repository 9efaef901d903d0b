"""`python -m tokenizer_svc`, configured by `TRIPTYCH_TOKENIZER_*`."""

from __future__ import annotations

from chassis.serving.server import main
from tokenizer_svc.service import make_mount
from tokenizer_svc.settings import TokenizerSettings

if __name__ == "__main__":
    main("tokenizer", TokenizerSettings, make_mount)
