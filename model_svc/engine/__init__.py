"""The engine thread: plans steps, runs them, keeps their results."""
