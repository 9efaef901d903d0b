"""`python -m model_svc`: one model process, configured by `TRIPTYCH_MODEL_*`."""

from __future__ import annotations

from chassis.server import main
from model_svc.mount import mount
from model_svc.settings import ModelSettings

main("model", ModelSettings, mount)
