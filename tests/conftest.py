"""What every test runs under."""

from __future__ import annotations

import os

from hypothesis import settings

# Examples differ from run to run at a desk, to find more; in CI they repeat, so that a failure
# belongs to the change that shows it. No deadline: a busy machine is not a defect.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
