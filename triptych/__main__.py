"""`python -m triptych`: the command line."""

from __future__ import annotations

from triptych.cli import app

if __name__ == "__main__":
    app(prog_name="triptych")
