"""A deployment under test: its processes, links and counters."""
