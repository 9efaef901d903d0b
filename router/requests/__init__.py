"""State of one request: its checks, its prompt, its progress."""
