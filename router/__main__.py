"""`python -m router`."""

from __future__ import annotations

from chassis.serving.server import main
from router.service import mount
from router.settings import RouterSettings

if __name__ == "__main__":
    main("router", RouterSettings, mount)
