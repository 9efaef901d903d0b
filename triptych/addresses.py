"""Where a deployment is found when nothing else is said. Free of imports."""

from __future__ import annotations

PUBLIC = "127.0.0.1:50051"
METRICS = "127.0.0.1:9400"
