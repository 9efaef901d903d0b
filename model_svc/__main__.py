"""`python -m model_svc`: one model process, configured by `TRIPTYCH_MODEL_*`."""

from __future__ import annotations

import os

from chassis.serving.server import main

# Read by torch's OpenMP when it is loaded. Threads that spin while they wait for the next product
# take the cores from the other processes; on a busy machine that made steps five times slower. They
# spin only as long as the next product of the same step may take to come, a few microseconds: a
# step of a lone sequence then took 0.9 times as long, beside a busy loop 1.08 times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
# Weights and cache in pages of 2 MiB, where the system gives them to who asks: a step of 8
# sequences took 0.7 times as long, since memory is then read ahead across more than 4 KiB.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from model_svc.service import mount
from model_svc.settings import ModelSettings

main("model", ModelSettings, mount)
