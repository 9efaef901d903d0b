"""Processes die under load; each request is compared with its undisturbed run: `make faults`."""
