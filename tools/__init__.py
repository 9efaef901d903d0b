"""Scripts of the repository, each run as `python -m tools.<name>`; nothing that serves imports them."""
