"""All scheduling policies by name."""

from __future__ import annotations

from collections.abc import Mapping

from chassis.policies.first_come import FirstCome
from chassis.policies.policy import Policy

POLICIES: Mapping[str, Policy] = {"first-come": FirstCome()}
DEFAULT_POLICY = "first-come"
