"""`python -m detokenizer_svc`, configured by `TRIPTYCH_DETOKENIZER_*`."""

from __future__ import annotations

from chassis.serving.server import main
from detokenizer_svc.service import make_mount
from detokenizer_svc.settings import DetokenizerSettings

if __name__ == "__main__":
    main("detokenizer", DetokenizerSettings, make_mount)
