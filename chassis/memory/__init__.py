"""Shared memory between processes of one machine."""
