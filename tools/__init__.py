"""Scripts of the repository, each run as `python -m tools.<name>`; no service imports them."""
