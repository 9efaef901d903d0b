"""Scheduling policies of the router's queue and the engine's scheduler."""
